"""One person followed through a video: looked for on key frames, carried between them, smoothed, never across a cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from preprocessing.crowd import follow_people, track_people
from preprocessing.faces import FaceDetector, FaceTrack, TrackedFace


def follow(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> Iterator[TrackedFace]:
    """The followed face of each frame, in order, a bounded number of frames late; options as Crowd's."""
    for (face,) in follow_people(frames, detector, max_faces=1, **options):
        yield face


def track_faces(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> FaceTrack:
    """The whole path of one face through the frames; options as Crowd's."""
    (track,) = track_people(frames, detector, max_faces=1, **options)
    return track
