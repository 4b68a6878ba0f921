"""Landmarks of the face in each frame, located by detection, a box, a saved track or a person's index."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from inference.engine import JobInput, job_detector
from inference.generator.face_track_buffer import loaded_track
from preprocessing.faces.face_track import Detection, TrackedFace
from preprocessing.faces.landmarks.predictor import LandmarkNetwork
from preprocessing.faces.landmarks.smoothing import LandmarkSmoother, SmoothingConfig
from preprocessing.faces.landmarks.tracker import LandmarkTracker, LandmarkTrackerConfig
from preprocessing.faces.mesh import Landmarks
from preprocessing.faces.tracking import stream_face_track

DETECT_EVERY = 50  # frames between checks by the detector


def track_landmarks(
    job: JobInput, network: LandmarkNetwork, count: int
) -> Iterator[tuple[np.ndarray, Landmarks | None]]:  # fmt: skip
    """The first `count` frames with the landmarks of the face chosen by the options, None where it is not found.

    A box, a saved track or `face_id` gives the location of the face; otherwise the landmark tracker finds it.
    """
    options, source = job.options, job.source
    smoothing = SmoothingConfig(reach=0) if options.nosmooth else SmoothingConfig()
    frames = source.frames(0, count)
    if options.load_track is not None:
        return track_in_boxes(frames, loaded_track(options.load_track, source.size, count), network, smoothing)
    if options.face_id is not None:
        boxes = stream_face_track(
            source.frames(0, count), job_detector(options), face_id=options.face_id,
            every=options.detect_every or 5, fps=float(source.fps),
        )  # fmt: skip
        return track_in_boxes(frames, boxes, network, smoothing)
    detector = job_detector(options) if options.box is None else BoxDetector(options.box, source.size)
    config = LandmarkTrackerConfig(select=options.select, every=options.detect_every or DETECT_EVERY)
    return _with_frames(frames, LandmarkTracker(network, detector, config, smoothing))


def track_in_boxes(
    frames: Iterable[np.ndarray], boxes: Iterable[TrackedFace], network: LandmarkNetwork, smoothing: SmoothingConfig
) -> Iterator[tuple[np.ndarray, Landmarks | None]]:  # fmt: skip
    """Frames with the landmarks of a face whose boxes are known; landmarks are smoothed within a shot."""
    smoother, pending = LandmarkSmoother(smoothing), deque[np.ndarray]()
    last: Landmarks | None = None
    shot = -1
    for frame, face in zip(frames, boxes, strict=False):
        done: list[Landmarks | None] = []
        if not face.found or face.shot != shot:
            done += smoother.finish()
            last, shot = None, face.shot
        pending.append(frame)
        if face.found:
            last = network(frame, face.box if last is None else last)
            done += smoother.push(last)
        else:
            done.append(None)
        yield from ((pending.popleft(), found) for found in done)
    yield from ((pending.popleft(), found) for found in smoother.finish())


class BoxDetector:
    """Returns a constant box as a detector: top, bottom, left, right in a frame of `size` (width, height)."""

    def __init__(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
        top, bottom, left, right = box
        self._box, self._size = np.array([left, top, right, bottom], np.float32), np.array(size * 2, np.float32)

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """The box in each frame, scaled if the frame is downscaled."""
        return [[Detection(self._box * np.tile(frame.shape[1::-1], 2) / self._size, 1.0, None)] for frame in frames]


def _with_frames(
    frames: Iterable[np.ndarray], tracker: LandmarkTracker
) -> Iterator[tuple[np.ndarray, Landmarks | None]]:  # fmt: skip
    """Pairs each frame with its landmarks, which the tracker returns with a delay."""
    pending = deque[np.ndarray]()
    for frame in frames:
        pending.append(frame)
        yield from ((pending.popleft(), found) for found in tracker.push(frame))
    yield from ((pending.popleft(), found) for found in tracker.finish())
