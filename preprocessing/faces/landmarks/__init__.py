"""Landmarks: the mesh points of a face in a picture, and of one person through a video."""
