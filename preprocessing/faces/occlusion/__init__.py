"""What stands in front of a face: hands, microphones, subtitles."""
