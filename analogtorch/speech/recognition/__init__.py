"""Recognisers of connected words: data, networks, training, decoding."""
