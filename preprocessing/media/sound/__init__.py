"""Channels mixed to one, and the sound of a video to be written: tracks copied where they can be, else mixed."""
