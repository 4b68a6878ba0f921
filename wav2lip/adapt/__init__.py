"""Fine-tunes a generator on one person."""
