"""Keyword spotting: data, features, networks and the pipeline that trains and evaluates them."""
