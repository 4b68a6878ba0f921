"""Metrics of mouths from points of the face mesh, and the two judges that find the points."""
