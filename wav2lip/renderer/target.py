"""The shape that a face shall take in a frame: its rest shape, displaced, where speech moves the face."""

from __future__ import annotations

from functools import cache

import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, canonical_face, lower_face

NOSE, CHEEK = (77.0, 86.0), (62.0, 40.0)  # where the driven shape's weight goes from 0 to 1, canonical units
MIDDLE = (64.0, 98.0)  # cheeks are measured from here
SHUT, OPEN = 0.7, 2.2  # units: a smaller gap between the lips is closed, a greater one is kept
LINE = 0.35  # the gap that a mesh sees between closed lips: the dark line where they meet
UPPER = LIPS_INNER[:10:-1]  # nine upper points, right to left
LOWER = LIPS_INNER[1:10]  # the lower points below them


def smoothstep(value: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 before `start`, 1 after `end` (which may be the smaller one), smooth between."""
    share = np.clip((value - start) / (end - start), 0, 1)
    return share * share * (3 - 2 * share)


@cache
def driven_weights() -> np.ndarray:
    """(206,) how far each point follows the driven shape: 1 at lips and chin, 0 at nose, ears and upper cheeks."""
    face = canonical_face()
    reach = np.hypot(face[:, 0] - MIDDLE[0], 0.9 * (face[:, 1] - MIDDLE[1]))
    weights = np.zeros(len(face))
    below = lower_face()
    weights[below] = (smoothstep(face[:, 1], *NOSE) * smoothstep(reach, *CHEEK))[below]
    weights[np.concatenate([LIPS_OUTER, LIPS_INNER])] = 1
    weights.setflags(write=False)
    return weights


def close_small_gaps(shape: np.ndarray) -> np.ndarray:
    """Bring lips that nearly touch together: gaps below `SHUT` become `LINE`, gaps above `OPEN` stay.

    Args:
        shape: (..., 206, 3) canonical units; a closed mouth seen by a mesh still has gaps of 0.2 to 0.6.

    Returns:
        (..., 206, 3), a new array.
    """
    closed = np.array(shape, np.float64)
    upper, lower = closed[..., UPPER, :], closed[..., LOWER, :]
    gap = np.linalg.norm((lower - upper)[..., :2], axis=-1)
    crossed = lower[..., 1] < upper[..., 1]
    eased = LINE + np.clip((gap - SHUT) / (OPEN - SHUT), 0, 1) * (OPEN - LINE)
    wanted = np.where(gap < OPEN, np.minimum(gap, eased), gap)
    share = np.where(crossed, 1.0, 1 - wanted / np.maximum(gap, 1e-9))[..., None]
    half = 0.5 * share * (lower - upper)
    closed[..., UPPER, :] = upper + half
    closed[..., LOWER, :] = lower - half
    return closed


def target_shape(
    points: np.ndarray, rest: np.ndarray, displacement: np.ndarray, strength: float = 1.0, pose: HeadPose | None = None
) -> np.ndarray:
    """Where the points of a frame shall go.

    Args:
        points: (206, 3) mesh points seen in the frame, pixels.
        rest: (206, 3) the person's face at rest, canonical units.
        displacement: (206, 3) from rest, canonical units.
        strength: factor of the displacement.
        pose: the head's pose if it is known, say smoothed; else it is taken from the points.

    Returns:
        (206, 3) float64 pixels; points of weight 0 are exactly those seen.
    """
    pose = pose or HeadPose.of(points)
    weights = driven_weights()[:, None]
    driven = pose.repose(close_small_gaps(rest + strength * displacement))
    return np.where(weights > 0, points + weights * (driven - points), points)
