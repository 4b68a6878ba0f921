"""Training clips: files, manifest, quality filters and windows."""
