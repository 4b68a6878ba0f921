"""Sound and video: files to arrays and back."""
