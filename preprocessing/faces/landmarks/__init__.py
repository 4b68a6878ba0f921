"""Face mesh landmarks in images and videos."""
