"""Speech features: hidden layers of a speech recognizer, or a mel spectrogram."""
