"""What the models are checked against: published figures, and what the library gives."""
