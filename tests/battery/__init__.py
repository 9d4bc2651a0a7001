"""Calls that make no sense, each refused by an error that names what is wrong and what is
allowed."""
