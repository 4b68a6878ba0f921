"""Speech features: hidden layers of the encoder of Whisper, or a mel spectrogram."""
