"""Speech to lip shape: how far the lower face is from rest, at any time of a recording."""
