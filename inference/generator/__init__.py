"""The published way: a generator paints the lower half of a face crop."""
