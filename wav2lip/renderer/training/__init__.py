"""Training of the mouth painter."""
