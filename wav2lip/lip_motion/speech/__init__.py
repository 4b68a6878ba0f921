"""What a recording's speech sounds like, as vectors: a phoneme recogniser's inner layers, or a mel spectrogram."""
