"""Lets a photo live: small motions of the head, and blinks."""
