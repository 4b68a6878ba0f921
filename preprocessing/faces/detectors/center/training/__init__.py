"""Pictures, scenes, losses and measures of the face detector's trainer."""
