"""Turns media files into arrays and training clips; independent of the networks."""
