"""Puts generated lips back into a video."""
