"""The lid margins of an open eye in a picture, found from the mesh's eye corners: the mesh has no points on the lids.

An eye's own coordinates: u runs from the outer corner, 0, to the inner one, 1; v points down, in widths of the eye.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.faces.mesh import POINT, HeadPose

CORNERS = ((POINT[33], POINT[133]), (POINT[263], POINT[362]))
"""Outer and inner corner of the right and the left eye, rows of our arrays."""

MIN_WIDTH = 14.0  # pixels between the corners; in smaller eyes the lids are a pixel or two
MIN_OPENING = 0.24  # of the eye's width; less is an eye that is nearly shut already
MIN_EDGE, MIN_EDGES = 0.12, 0.18  # of the eye's contrast: the upper lid's edge in one eye, and the mean of both
MIN_ALIKE = 0.55  # the weaker of both edges, of the stronger one
MAX_YAW = 15.0  # degrees; beyond it, the arcs of the farther eye are others

_SIDE = 64  # samples along an eye's width
_LEFT, _TOP, _WIDTH, _HEIGHT = -0.35, -0.85, 1.7, 1.45  # the sampled patch, in widths of the eye
_BAND = 4  # samples compared above and below an edge
_TILTS = np.arange(-0.14, 0.15, 0.04)  # how far the mesh's corners may lie above or below the eye's
_UPPER, _LOWER = np.arange(0.12, 0.5, 0.02), np.arange(0.04, 0.3, 0.02)  # heights of the arcs
_LASHES = 0.04  # by which the margin lies below the upper edge of the lashes, which is the edge that is seen
_ALONG = np.linspace(0.08, 0.92, 29)


def upper_arc(u: np.ndarray) -> np.ndarray:
    """Shape of the upper lid's margin, 0 at the corners and 1 at its highest, which lies beyond the middle."""
    bent = np.clip(u, 0, 1) ** 1.1
    return 4 * bent * (1 - bent)


def lower_arc(u: np.ndarray) -> np.ndarray:
    """The same of the lower lid, which is lowest nearer to the outer corner."""
    bent = np.clip(u, 0, 1) ** 0.8
    return 4 * bent * (1 - bent)


@dataclass(frozen=True)
class Eyelids:
    """The lids of one eye.

    Attributes:
        outer: (2,) pixels, the mesh's outer corner.
        along, down: (2,) pixels by u and by v: a point is outer + u · along + v · down.
        corners: v of the outer and of the inner corner.
        upper, lower: heights of the arcs above and below the line between the corners.
        edge: mean step of brightness across the upper lid's margin, of the eye's contrast.
    """

    outer: np.ndarray
    along: np.ndarray
    down: np.ndarray
    corners: tuple[float, float]
    upper: float
    lower: float
    edge: float

    def upper_margin(self, u: np.ndarray) -> np.ndarray:
        """v of the upper lid's margin; beyond the corners, of the line through them."""
        return self._between(u) - (self.upper - _LASHES) * upper_arc(u)

    def lower_margin(self, u: np.ndarray) -> np.ndarray:
        """v of the lower lid's margin."""
        return self._between(u) + self.lower * lower_arc(u)

    def _between(self, u: np.ndarray) -> np.ndarray:
        return self.corners[0] * (1 - u) + self.corners[1] * u


def find_eyelids(frame: np.ndarray, points: np.ndarray) -> tuple[Eyelids, Eyelids] | None:
    """The lids of both eyes, right and left, if both are open and their upper margins are clearly seen.

    The margins are the arcs across which brightness steps most, weighed against how far they are from those of a mean
    eye; both eyes are open equally far.

    Args:
        frame: (H, W, 3) uint8.
        points: (206, 3) mesh points, pixels.
    """
    eyes = [_Eye.of(frame, points[outer, :2], points[inner, :2]) for outer, inner in CORNERS]
    if min(np.hypot(*eye.along) for eye in eyes) < MIN_WIDTH or abs(float(HeadPose.of(points).yaw())) > MAX_YAW:
        return None
    heights = np.sum([eye.likely().max((2, 3)) for eye in eyes], 0)
    upper, lower = np.unravel_index(np.argmax(heights), heights.shape)
    right, left = (eye.lids(int(upper), int(lower)) for eye in eyes)
    weaker, stronger = sorted((right.edge, left.edge))
    seen = weaker >= max(MIN_EDGE, MIN_ALIKE * stronger) and (weaker + stronger) / 2 >= MIN_EDGES
    return (right, left) if seen and right.upper + right.lower >= MIN_OPENING else None


@dataclass(frozen=True)
class _Eye:
    """An eye's own coordinates, see `Eyelids`, and the step across each arc: (heights, tilts, tilts)."""

    outer: np.ndarray
    along: np.ndarray
    down: np.ndarray
    above: np.ndarray
    below: np.ndarray

    @classmethod
    def of(cls, frame: np.ndarray, outer: np.ndarray, inner: np.ndarray) -> _Eye:
        start, along = outer.astype(np.float64), (inner - outer).astype(np.float64)
        down = np.array([-along[1], along[0]]) * np.sign(along[0])
        steps = _steps(_patch(frame, start, along, down))
        above = _scores(steps, _UPPER, lambda tilt, height: tilt - height * upper_arc(_ALONG))
        below = _scores(-steps, _LOWER, lambda tilt, height: tilt + height * lower_arc(_ALONG))
        return cls(start, along, down, above, below)

    def likely(self) -> np.ndarray:
        """How likely each pair of arcs is, (upper heights, lower heights, tilts, tilts)."""
        tilted = 12 * (_TILTS[:, None] ** 2 + _TILTS**2)
        upper = self.above - tilted - 3 * (_UPPER[:, None, None] - 0.24) ** 2
        lower = self.below - tilted - 30 * (_LOWER[:, None, None] - 0.13) ** 2
        return upper[:, None] + 0.7 * lower

    def lids(self, upper: int, lower: int) -> Eyelids:
        """The lids with these heights and the tilt that fits them best."""
        likely = self.likely()[upper, lower]
        first, second = np.unravel_index(np.argmax(likely), likely.shape)
        corners, edge = (float(_TILTS[first]), float(_TILTS[second])), float(self.above[upper, first, second])
        return Eyelids(self.outer, self.along, self.down, corners, float(_UPPER[upper]), float(_LOWER[lower]), edge)


def _patch(frame: np.ndarray, start: np.ndarray, along: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The eye and its surroundings, upright: (h, w) float32 brightness in units of its contrast."""
    u, v = np.meshgrid(np.arange(_LEFT, _LEFT + _WIDTH, 1 / _SIDE), np.arange(_TOP, _TOP + _HEIGHT, 1 / _SIDE))
    x, y = (start[axis] + u * along[axis] + v * down[axis] for axis in (0, 1))
    pixels = cv2.remap(frame, x.astype(np.float32), y.astype(np.float32), cv2.INTER_CUBIC,
                       borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    gray = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY).astype(np.float32), (0, 0), 0.02 * _SIDE)
    dark, bright = np.percentile(gray[20:70, 20:90], (5, 95))
    return gray / max(float(bright - dark), 10.0)


def _steps(patch: np.ndarray) -> np.ndarray:
    """By how much the samples above each one are brighter than those below it."""
    sums = np.vstack([np.zeros_like(patch[:1]), np.cumsum(patch, 0)])
    means = (sums[_BAND:] - sums[:-_BAND]) / _BAND
    steps = np.zeros_like(patch)
    steps[_BAND:-_BAND] = (means[:-_BAND] - means[_BAND:])[: len(patch) - 2 * _BAND]
    return steps


def _scores(
    steps: np.ndarray, heights: np.ndarray, arc: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:  # fmt: skip
    """Mean step along the arcs of all heights and tilts, (heights, tilts, tilts); the middle counts more."""
    weights = np.sqrt(np.sin(np.pi * _ALONG))
    high, first, second = np.meshgrid(heights, _TILTS, _TILTS, indexing="ij")
    tilt = first[..., None] * (1 - _ALONG) + second[..., None] * _ALONG
    rows = (arc(tilt, high[..., None]) - _TOP) * _SIDE
    columns = np.broadcast_to((_ALONG - _LEFT) * _SIDE, rows.shape)
    flat = (-1, len(_ALONG))
    samples = cv2.remap(steps, columns.reshape(flat).astype(np.float32), rows.reshape(flat).astype(np.float32),
                        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    return (samples @ (weights / weights.sum())).reshape(high.shape)
