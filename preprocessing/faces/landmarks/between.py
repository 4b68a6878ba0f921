"""Points of the frames between two that were looked at: where the head moves evenly, only the mouth is looked at.

A head moves slowly for the frame rate, lips do not. So the network for the whole face sees every few frames, the one
for the mouth every frame, in a crop placed by the interpolated head. How far interpolation may be off is told by how
much the head's speed changed; if that is too much, the frame in the middle is looked at, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from preprocessing.faces.mesh import STABLE, Landmarks

Look = Callable[[np.ndarray, Landmarks], Landmarks]
"""Points of a frame, uint8 BGR (H, W, 3), near others."""

TOLERANCE = 0.6  # units of the canonical face by which an interpolated head may be off, about the network's jitter


class FramesBetween:
    """Gives the points of frames between two looks at the whole face.

    Args:
        look: finds all points of a frame.
        refine: finds those of the mouth, given all of them nearly; the rest is kept.
    """

    def __init__(self, look: Look, refine: Look) -> None:
        self._look, self._refine = look, refine

    def points(
        self, frames: Sequence[np.ndarray], before: Landmarks, after: Landmarks, speed: np.ndarray | None = None
    ) -> list[Landmarks]:
        """The points of successive frames after that of `before` and before that of `after`.

        Args:
            speed: (17, 2) pixels per frame by which the stable points moved before `before`; None if unknown.
        """
        if not frames:
            return []
        if _error(before, after, len(frames) + 1, speed) <= TOLERANCE:
            shares = np.arange(1, len(frames) + 1) / (len(frames) + 1)
            return [self._refine(frame, blend(before, after, at)) for frame, at in zip(frames, shares, strict=True)]
        half = len(frames) // 2
        middle = self._look(frames[half], blend(before, after, (half + 1) / (len(frames) + 1)))
        first = self.points(frames[:half], before, middle, speed)
        return [*first, middle, *self.points(frames[half + 1 :], middle, after, mean_speed(before, middle, half + 1))]


def blend(before: Landmarks, after: Landmarks, share: float) -> Landmarks:
    """Points between two, at `share` of the way; less sure of a face than either."""
    points = before.points + np.float32(share) * (after.points - before.points)
    return Landmarks(points, min(before.presence, after.presence))


def mean_speed(before: Landmarks, after: Landmarks, frames: int) -> np.ndarray:
    """(17, 2) pixels per frame by which the stable points moved."""
    moved: np.ndarray = (after.points[STABLE, :2] - before.points[STABLE, :2]) / frames
    return moved


def _error(before: Landmarks, after: Landmarks, frames: int, speed: np.ndarray | None) -> float:
    """Units by which a head halfway between is off, if its speed changes evenly from the one before."""
    change = mean_speed(before, after, frames) - (0 if speed is None else speed)
    return float(np.linalg.norm(change, axis=1).mean()) * frames / 8 / max(float(before.pose.scale), 1e-6)
