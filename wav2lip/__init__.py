"""Wav2Lip: lip motion from speech, the renderer, the published generator, and its critics."""

__version__ = "0.1.0"
