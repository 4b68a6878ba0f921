"""Tracks one face's mesh points through a video: each frame's points locate the crop in the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import FaceDetector, reduce_frame
from preprocessing.faces.identity import choose, overlap, parse_select
from preprocessing.faces.landmarks.predictor import LandmarkNetwork
from preprocessing.faces.landmarks.smoothing import LandmarkSmoother, SmoothingConfig
from preprocessing.faces.mesh import Landmarks, canonical_face
from preprocessing.faces.scene_cuts import AHEAD, SceneCutDetector

SAME_FACE = 0.5  # minimum intersection over the smaller box
MAX_STEP = 0.4  # maximum motion between frames, as a fraction of the face height
MAX_GROWTH = 1.35  # maximum size ratio between frames


@dataclass(frozen=True)
class LandmarkTrackerConfig:
    """Tracking settings.

    Attributes:
        select: Face to track from the start of a shot: largest, left, right, center, or the one nearest to 'X,Y'.
        every: Frames between detector checks.
        retry: The same while no face is tracked or its presence is low.
        least_presence: Presence below which the detector verifies the face.
        detect_side: Longer side in pixels of the frames given to the detector.
    """

    select: str = "largest"
    every: int = 50
    retry: int = 5
    least_presence: float = 0.4
    detect_side: int = 640

    def __post_init__(self) -> None:
        parse_select(self.select)
        if self.every < 1 or self.retry < 1 or self.detect_side < 32 or not 0 <= self.least_presence <= 1:
            raise UsageError(
                "landmark tracking needs every >= 1, retry >= 1, detect_side >= 32 and least_presence from 0 to 1"
            )


class LandmarkTracker:
    """Tracks the mesh points of one person in constant memory, with a delay of up to `max_lag` frames.

    The detector runs at the start of a shot, when presence drops or points jump, and every `every` frames; if its box
    is elsewhere, tracking restarts there.

    Args:
        network: predicts points near a position.
        detector: detects faces.
        config: tracking settings.
        smoothing: smoothing settings.
    """

    def __init__(
        self,
        network: LandmarkNetwork,
        detector: FaceDetector,
        config: LandmarkTrackerConfig | None = None,
        smoothing: SmoothingConfig | None = None,
    ) -> None:
        self._network, self._detector, self.config = network, detector, config or LandmarkTrackerConfig()
        self._select = parse_select(self.config.select)
        self._smoother = LandmarkSmoother(smoothing)
        self.max_lag = AHEAD + self._smoother.config.reach
        """Maximum delay in frames: shot detection and smoothing need lookahead."""
        self._cuts, self._waiting = SceneCutDetector(), deque[np.ndarray]()
        self._last: Landmarks | None = None
        self._since = 0  # frames since the detector last ran
        self.detections = 0
        """Number of detector calls."""

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[Landmarks | None]:
        """Yields the points of each frame, in order; None without a face."""
        for frame in frames:
            yield from self.push(frame)
        yield from self.finish()

    def push(self, frame: np.ndarray) -> list[Landmarks | None]:
        """Pushes the next frame, uint8 BGR (H, W, 3); returns the points that are now final, in order."""
        self._waiting.append(frame)
        verdict = self._cuts.push(frame)
        return [] if verdict is None else self._advance(self._waiting.popleft(), verdict)

    def finish(self) -> list[Landmarks | None]:
        """Returns the remaining points after the last push."""
        given: list[Landmarks | None] = []
        for verdict in self._cuts.finish():
            given += self._advance(self._waiting.popleft(), verdict)
        return given + self._smoother.finish()

    def _advance(self, frame: np.ndarray, cut: bool) -> list[Landmarks | None]:
        """Processes one frame; `cut` tells whether it starts a shot."""
        given: list[Landmarks | None] = []
        if cut:
            self._last, self._since = None, self.config.retry
            given += self._smoother.finish()
        self._since += 1
        self._last = self._begin(frame) if self._last is None else self._follow(frame, self._last)
        if self._last is None:
            return [*given, *self._smoother.finish(), None]
        return [*given, *self._smoother.push(self._last)]

    def _begin(self, frame: np.ndarray) -> Landmarks | None:
        """Detects a face while none is tracked."""
        if self._since < self.config.retry and self.detections:
            return None
        boxes = self._detect(frame)
        index = choose(boxes, self._select, (frame.shape[1], frame.shape[0]))
        return None if index < 0 else self._network(frame, boxes[index])

    def _follow(self, frame: np.ndarray, last: Landmarks) -> Landmarks | None:
        """Predicts points from the last ones, verified by the detector when needed."""
        found = self._network(frame, last)
        leapt = _leap(last, found)
        doubt = found.presence < self.config.least_presence and self._since >= self.config.retry
        if not (leapt or doubt or self._since >= self.config.every):
            return found
        boxes = self._detect(frame)
        if not leapt and any(_same(face_box(found), box) for box in boxes):
            return found
        near = [box for box in boxes if _same(face_box(last), box)] or boxes
        if near:
            best = max(near, key=lambda box: overlap(face_box(last), box))
            return self._network(frame, best)
        return None if leapt or doubt else found

    def _detect(self, frame: np.ndarray) -> list[np.ndarray]:
        """The boxes (4,) of the faces in a frame."""
        small = reduce_frame(frame, self.config.detect_side)
        scale = np.array([frame.shape[1] / small.shape[1], frame.shape[0] / small.shape[0]])
        self._since, self.detections = 0, self.detections + 1
        return [face.box * np.tile(scale, 2) for face in self._detector([small])[0]]


def face_box(found: Landmarks) -> np.ndarray:
    """The box (4,) x1 y1 x2 y2 of the posed canonical face, like a detector's, with the mouth closed."""
    points = found.pose.repose(canonical_face())[:, :2]
    return np.concatenate([points.min(0), points.max(0)])


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes may belong to one face: they overlap and have similar size."""
    growth = (one[2:] - one[:2]).max() / max((other[2:] - other[:2]).max(), 1e-6)
    return overlap(one, other) > SAME_FACE and 0.5 < growth < 2


def _leap(last: Landmarks, found: Landmarks) -> bool:
    """Whether motion or growth within one frame is implausible."""
    before, after = face_box(last), face_box(found)
    height = (before[2:] - before[:2]).max()
    growth = (after[2:] - after[:2]).max() / max(height, 1e-6)
    step = np.abs(before - after).max() / max(height, 1e-6)
    return not (1 / MAX_GROWTH < growth < MAX_GROWTH and step < MAX_STEP)
