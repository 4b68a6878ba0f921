"""Scores of clips and videos: by the expert, by the published metrics, who speaks, and the report."""
