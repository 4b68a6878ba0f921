"""Fine-tunes a generator to one person."""
