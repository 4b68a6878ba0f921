"""Training clips: their files, manifest, filters and windows."""
