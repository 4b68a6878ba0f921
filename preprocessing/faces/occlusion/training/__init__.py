"""Training of the occlusion network."""
