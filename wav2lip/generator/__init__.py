"""The published Wav2Lip generator and ours: networks, data, losses, checkpoints."""
