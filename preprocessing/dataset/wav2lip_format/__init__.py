"""The original Wav2Lip's data layout, reading and writing."""
