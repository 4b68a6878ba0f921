"""What the video reader is made of: frame rate, orientation, deinterlacing, photos."""
