"""The original Wav2Lip's data layout, read and written."""
