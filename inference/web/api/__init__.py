"""HTTP: what a client may ask, who may ask it, and how errors are told."""
