"""The command that turns raw videos into training clips."""
