"""Signed provenance: a C2PA manifest that says how a video was made, and by which software and inputs."""
