"""The published method: a generator inpaints the lower half of a face crop."""
