"""Wrong calls; each is refused by an error that names what is wrong and what is allowed."""
