"""Landmarks of the faces in each frame, located by detection, a box, a saved track or the people found before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from inference.engine import JobInput, job_detector
from inference.generator.face_track_buffer import loaded_track
from preprocessing.faces.face_track import Detection, TrackedFace
from preprocessing.faces.identity import overlap
from preprocessing.faces.landmarks.predictor import LandmarkNetwork
from preprocessing.faces.landmarks.smoothing import LandmarkSmoother, SmoothingConfig
from preprocessing.faces.landmarks.tracker import LandmarkTracker, LandmarkTrackerConfig, face_box
from preprocessing.faces.mesh import Landmarks

LEFT_BOX = 0.3  # overlap of the landmarks' box with the known one, below which they belong to another face
DETECT_EVERY = 50  # frames between checks by the detector
AHEAD_BYTES = 24 * 2**20  # of frames decoded ahead of the tracker


def track_landmarks(
    job: JobInput, network: LandmarkNetwork, count: int
) -> Iterator[tuple[int, np.ndarray, Landmarks | None]]:  # fmt: skip
    """The first `count` frames for each role: its index, the frame and the person's landmarks, None where not found.

    The frames are read once. A person found before, a box or a saved track gives the location of the face; otherwise
    the landmark tracker finds it. Roles may run ahead of each other by what smoothing and shot detection need.
    """
    options, source = job.options, job.source
    smoothing = SmoothingConfig(reach=0) if options.nosmooth else SmoothingConfig()
    clock, network = job.clock, job.clock.timed("network", network)
    people, tracker = [role.person for role in job.roles], None
    if options.load_track is not None:
        tracks = [loaded_track(options.load_track, source.size, count)]
    elif None not in people:
        tracks = [person.faces(count) for person in people if person is not None]
    else:
        find = job_detector(options) if options.box is None else BoxDetector(options.box, source.size)
        detector = clock.timed("detect", find)
        config = LandmarkTrackerConfig(select=options.select, every=options.detect_every or DETECT_EVERY)
        tracker = LandmarkTracker(network, detector, config, smoothing)
    # A photo's own colors are kept: planes would halve their resolution, and there is no time to be saved.
    decoded = clock.iterate("decode", source.frames(0, count, planar=not source.info.is_image))
    depth = int(np.clip(AHEAD_BYTES // (source.size[0] * source.size[1] * 3), 2, 16))
    with closing(clock.prefetched(decoded, depth)) as frames:
        if tracker is None:
            yield from track_people(frames, tracks, network, smoothing)
        else:
            found = _with_frames(frames, tracker)
            yield from ((0, frame, _vouched(face) if options.box else face) for frame, face in found)


def _vouched(face: Landmarks | None) -> Landmarks | None:
    """A face that the user has boxed counts as present: the network doubts drawn faces, but finds their points."""
    return None if face is None else replace(face, presence=1.0)


def track_people(
    frames: Iterable[np.ndarray], tracks: Sequence[Iterator[TrackedFace]], network: LandmarkNetwork,
    smoothing: SmoothingConfig,
) -> Iterator[tuple[int, np.ndarray, Landmarks | None]]:  # fmt: skip
    """For each track of boxes: its index and each frame with the landmarks in it; smoothed within a shot."""
    trackers = [_BoxedLandmarks(network, smoothing) for _ in tracks]
    for frame, *faces in zip(frames, *tracks, strict=False):
        for index, (tracker, face) in enumerate(zip(trackers, faces, strict=True)):
            yield from ((index, *found) for found in tracker.push(frame, face))
    for index, tracker in enumerate(trackers):
        yield from ((index, *found) for found in tracker.finish())


class _BoxedLandmarks:
    """The landmarks of a face whose boxes are known."""

    def __init__(self, network: LandmarkNetwork, smoothing: SmoothingConfig) -> None:
        self._network, self._smoother = network, LandmarkSmoother(smoothing)
        self._pending = deque[np.ndarray]()
        self._last: Landmarks | None = None
        self._shot = -1

    def push(self, frame: np.ndarray, face: TrackedFace) -> list[tuple[np.ndarray, Landmarks | None]]:
        """Adds the next frame; returns the frames that are now final, with their landmarks."""
        done: list[Landmarks | None] = []
        if not face.found or face.shot != self._shot:
            done += self._smoother.finish()
            self._last, self._shot = None, face.shot
        self._pending.append(frame)
        if face.found:
            self._last = self._follow(frame, face.box)
            done += self._smoother.push(self._last)
        else:
            done.append(None)
        return [(self._pending.popleft(), found) for found in done]

    def finish(self) -> list[tuple[np.ndarray, Landmarks | None]]:
        """The remaining frames."""
        return [(self._pending.popleft(), found) for found in self._smoother.finish()]

    def _follow(self, frame: np.ndarray, box: np.ndarray) -> Landmarks:
        """The landmarks near the last ones, or in the box if those have left it for another face."""
        if self._last is not None:
            found = self._network(frame, self._last)
            if overlap(face_box(found), box) > LEFT_BOX:
                return found
        return self._network(frame, box)


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
