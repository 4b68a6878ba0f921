"""Tracks one face's mesh points through a video: each frame's points locate the crop in the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import FaceDetector, reduce_frame
from preprocessing.faces.identity import choose, overlap, parse_select
from preprocessing.faces.landmarks.between import FramesBetween, Look, mean_speed
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
        stride: Every how many frames the whole face is looked at while it moves evenly; see `between`.
    """

    select: str = "largest"
    every: int = 50
    retry: int = 5
    least_presence: float = 0.4
    detect_side: int = 640
    stride: int = 1

    def __post_init__(self) -> None:
        parse_select(self.select)
        counts = min(self.every, self.retry, self.stride)
        if counts < 1 or self.detect_side < 32 or not 0 <= self.least_presence <= 1:
            raise UsageError(
                "landmark tracking needs every, retry and stride >= 1, detect_side >= 32 and least_presence 0 to 1"
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
        refine: predicts the points of the mouth, given all of them nearly; needed for a stride above 1.
    """

    def __init__(
        self,
        network: LandmarkNetwork,
        detector: FaceDetector,
        config: LandmarkTrackerConfig | None = None,
        smoothing: SmoothingConfig | None = None,
        refine: Look | None = None,
    ) -> None:
        self._network, self._detector, self.config = network, detector, config or LandmarkTrackerConfig()
        self._between = None if refine is None else FramesBetween(network, refine)
        self._stride = 1 if refine is None else self.config.stride
        self._skipped: list[np.ndarray] = []  # frames since the last look
        self._speed: np.ndarray | None = None  # of the head before that
        self._select = parse_select(self.config.select)
        self._smoother = LandmarkSmoother(smoothing)
        self.max_lag = AHEAD + self._smoother.config.reach + self._stride - 1
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
        return [*given, *self._end_shot()]

    def _advance(self, frame: np.ndarray, cut: bool) -> list[Landmarks | None]:
        """Processes one frame; `cut` tells whether it starts a shot."""
        given: list[Landmarks | None] = []
        if cut:
            given += self._end_shot()
            self._last, self._since = None, self.config.retry
        if self._last is not None and len(self._skipped) < self._stride - 1:
            self._skipped.append(frame)
            return given
        return given + self._catch_up(frame)

    def _end_shot(self) -> list[Landmarks | None]:
        """The points of the frames to the end of a shot."""
        rest = self._catch_up(self._skipped.pop()) if self._skipped else []
        return [*rest, *self._smoother.finish()]

    def _catch_up(self, frame: np.ndarray) -> list[Landmarks | None]:
        """Looks at a frame, and then at those skipped before it as far as needed."""
        skipped, self._skipped = self._skipped, []
        if skipped and self._last is not None and self._between is not None:
            last, self._since = self._last, self._since + len(skipped)
            found = self._network(frame, last)
            if self._sure(last, found) and self._since + 1 < self.config.every:
                self._since += 1
                points = [*self._between.points(skipped, last, found, self._speed), found]
                self._last, self._speed = found, mean_speed(last, found, len(points))
                return [given for one in points for given in self._smoother.push(one)]
            self._since -= len(skipped)
        return [given for one in (*skipped, frame) for given in self._step(one)]

    def _sure(self, last: Landmarks, found: Landmarks) -> bool:
        """Whether the points are surely those of the same face."""
        return found.presence >= self.config.least_presence and not _leap(last, found)

    def _step(self, frame: np.ndarray) -> list[Landmarks | None]:
        """Looks at a frame."""
        self._since += 1
        last = self._last
        self._last = self._begin(frame) if last is None else self._follow(frame, last)
        self._speed = None if last is None or self._last is None else mean_speed(last, self._last, 1)
        if self._last is None:
            return [*self._smoother.finish(), None]
        return [*self._smoother.push(self._last)]

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
