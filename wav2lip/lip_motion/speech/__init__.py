"""Speech features: hidden layers of a phoneme recognizer, or a mel spectrogram."""
