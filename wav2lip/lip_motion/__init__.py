"""Lip motion from speech: the displacement of the lower face from rest, at any time in a recording."""
