"""Media to arrays to clips on disk; knows none of the networks."""
