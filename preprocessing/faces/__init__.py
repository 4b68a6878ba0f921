"""Faces in frames: detectors, tracking, landmarks, crops."""
