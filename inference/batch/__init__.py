"""Many jobs: a table or a folder in, a video a row and a report out."""
