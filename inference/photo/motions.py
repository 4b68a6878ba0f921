"""What a photo may do."""

PHOTO_MOTIONS = ("none", "head", "full")
"""Stand still, move its head a little, or blink, too."""
