"""A small face detector of our own: a network that marks the centers of faces, bundled with its weights."""
