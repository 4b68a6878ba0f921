"""The first pass over a face's video: its mesh points, frame by frame, by whichever way the options find the face."""

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

EVERY = 50  # frames from one check by the detector to the next


def follow_face(
    job: JobInput, network: LandmarkNetwork, count: int
) -> Iterator[tuple[np.ndarray, Landmarks | None]]:  # fmt: skip
    """The first `count` frames with the points of the face that the options choose, None where it is not found.

    A box, a saved track and `face_id` say where the face is; else the tracker looks for it.
    """
    options, source = job.options, job.source
    smoothing = SmoothingConfig(reach=0) if options.nosmooth else SmoothingConfig()
    frames = source.frames(0, count)
    if options.load_track is not None:
        return follow_boxes(frames, loaded_track(options.load_track, source.size, count), network, smoothing)
    if options.face_id is not None:
        boxes = stream_face_track(
            source.frames(0, count), job_detector(options), face_id=options.face_id,
            every=options.detect_every or 5, fps=float(source.fps),
        )  # fmt: skip
        return follow_boxes(frames, boxes, network, smoothing)
    detector = job_detector(options) if options.box is None else BoxDetector(options.box, source.size)
    config = LandmarkTrackerConfig(select=options.select, every=options.detect_every or EVERY)
    return _with_frames(frames, LandmarkTracker(network, detector, config, smoothing))


def follow_boxes(
    frames: Iterable[np.ndarray], boxes: Iterable[TrackedFace], network: LandmarkNetwork, smoothing: SmoothingConfig
) -> Iterator[tuple[np.ndarray, Landmarks | None]]:  # fmt: skip
    """Frames with the points of the face whose box is known in each of them; points are smoothed within a shot."""
    smoother, waiting = LandmarkSmoother(smoothing), deque[np.ndarray]()
    last: Landmarks | None = None
    shot = -1
    for frame, face in zip(frames, boxes, strict=False):
        done: list[Landmarks | None] = []
        if not face.found or face.shot != shot:
            done += smoother.finish()
            last, shot = None, face.shot
        waiting.append(frame)
        if face.found:
            last = network(frame, face.box if last is None else last)
            done += smoother.push(last)
        else:
            done.append(None)
        yield from ((waiting.popleft(), found) for found in done)
    yield from ((waiting.popleft(), found) for found in smoother.finish())


class BoxDetector:
    """A constant box in place of a detector: top, bottom, left, right of a frame of `size` (width, height)."""

    def __init__(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
        top, bottom, left, right = box
        self._box, self._size = np.array([left, top, right, bottom], np.float32), np.array(size * 2, np.float32)

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """The box in each of the frames, which may be reduced."""
        return [[Detection(self._box * np.tile(frame.shape[1::-1], 2) / self._size, 1.0, None)] for frame in frames]


def _with_frames(
    frames: Iterable[np.ndarray], tracker: LandmarkTracker
) -> Iterator[tuple[np.ndarray, Landmarks | None]]:  # fmt: skip
    """Each frame with its points, which come some frames late."""
    waiting = deque[np.ndarray]()
    for frame in frames:
        waiting.append(frame)
        yield from ((waiting.popleft(), found) for found in tracker.push(frame))
    yield from ((waiting.popleft(), found) for found in tracker.finish())
