"""The command that builds training clips from raw videos."""
