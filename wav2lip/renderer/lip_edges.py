"""Refines the inner lip edges by color: a mesh mistakes teeth at the rim for lip, by up to two units."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, POINT

_RINGS = (
    (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 407, 272, 271, 268, 12, 38, 41, 42, 183),
    (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 408, 304, 303, 302, 11, 72, 73, 74, 184),
)  # mesh rings between the inner and the outer lip ring, from the inside out
LIPS_BETWEEN = tuple(np.array([POINT[index] for index in ring]) for ring in _RINGS)
STEPS = 13  # samples from the inner to the outer edge of a lip
MAX_SHARE = 0.55  # end of the search, as a fraction of the way to the outer edge
_LIPS = np.stack([np.arange(1, 10), np.arange(11, 20)])  # places in a ring: lower lip, upper lip
CONTRAST = 6.0  # minimum difference of Lab a* between lip and inner mouth; below it the mesh is trusted


def lip_edges(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Moves the inner lip ring outwards to where the red of the lips begins.

    Args:
        frame: (H, W, 3) uint8.
        points: (206, 3) mesh points, pixels.

    Returns:
        (20, 3) float64 inner lip ring, pixels.
    """
    inner, outer = points[LIPS_INNER][_LIPS], points[LIPS_OUTER][_LIPS]
    share = _first_red(_redness(frame, inner, outer))
    ring = points[LIPS_INNER].astype(np.float64)
    ring[_LIPS] = inner + share[..., None] * (outer - inner)
    return ring


def with_lip_edges(points: np.ndarray, ring: np.ndarray, amount: float = 1.0) -> np.ndarray:
    """(206, 3) points with a new inner lip ring; the lip points behind it shift along. `amount` is 0 to 1."""
    shift = amount * (ring - points[LIPS_INNER])
    moved = points.copy()
    for rows, share in zip((LIPS_INNER, *LIPS_BETWEEN), (1, 2 / 3, 1 / 3), strict=True):
        moved[rows] += share * shift
    return moved


def _redness(frame: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """(2, 9, STEPS) a* sampled from the inner to the outer edge of both lips; (2, 9, 3) points."""
    shares = np.linspace(0, 1, STEPS)[:, None]
    coordinates = (inner[..., None, :2] + shares * (outer - inner)[..., None, :2]).astype(np.float32)
    at = coordinates.reshape(-1, STEPS, 2)
    colors = cv2.remap(frame, at, np.empty(0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(colors, cv2.COLOR_BGR2LAB)[..., 1].reshape(coordinates.shape[:-1]).astype(np.float64)


def _first_red(redness: np.ndarray) -> np.ndarray:
    """(2, 9) fraction of the way at which each profile becomes as red as its lip, smoothed along the lip."""
    lip = _median(redness[..., STEPS // 2 : STEPS - 3].reshape(2, -1))[:, None, None]
    inside = redness[..., :4].min(axis=-1, keepdims=True)
    pale = redness < lip - 0.35 * (lip - inside)
    end = round(MAX_SHARE * (STEPS - 1))
    run = np.cumprod(pale[..., : end + 1], axis=-1).sum(axis=-1)
    share = np.where((lip[..., 0] - inside[..., 0] > CONTRAST) & (run <= end), run, 0) / (STEPS - 1)
    padded = np.zeros((2, share.shape[1] + 2))
    padded[:, 1:-1] = share
    return np.maximum((padded[:, :-2] + 2 * share + padded[:, 2:]) / 4, 0.75 * share)


def _median(values: np.ndarray) -> np.ndarray:
    """(N, K) → (N,); for few values several times as fast as NumPy's."""
    ordered, half = np.sort(values, axis=-1), values.shape[-1] // 2
    return ordered[:, half] if values.shape[-1] % 2 else (ordered[:, half - 1] + ordered[:, half]) / 2
