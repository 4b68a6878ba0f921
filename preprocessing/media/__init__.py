"""Reads and writes audio and video files as arrays."""
