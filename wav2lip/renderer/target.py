"""The target shape of a face in a frame: its rest shape plus the displacement, where speech moves the face."""

from __future__ import annotations

from functools import cache

import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, canonical_face, lower_face

NOSE, CHEEK = (77.0, 86.0), (62.0, 40.0)  # ranges over which the driven weight rises from 0 to 1, canonical units
MIDDLE = (64.0, 98.0)  # center of the cheek distance
SHUT, OPEN = 0.7, 2.2  # units: smaller lip gaps are closed, larger ones kept
LINE = 0.35  # lip gap in units of a closed mouth in the mesh: the dark line where the lips meet
UPPER = LIPS_INNER[:10:-1]  # nine points of the upper lip, right to left
LOWER = LIPS_INNER[1:10]  # the points of the lower lip below them


def smoothstep(value: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 before `start`, 1 after `end`, smooth in between; `end` may be less than `start`."""
    share = np.clip((value - start) / (end - start), 0, 1)
    return share * share * (3 - 2 * share)


@cache
def driven_weights() -> np.ndarray:
    """(206,) weight of the driven shape for each point: 1 at lips and chin, 0 at nose, ears and upper cheeks."""
    face = canonical_face()
    reach = np.hypot(face[:, 0] - MIDDLE[0], 0.9 * (face[:, 1] - MIDDLE[1]))
    weights = np.zeros(len(face))
    below = lower_face()
    weights[below] = (smoothstep(face[:, 1], *NOSE) * smoothstep(reach, *CHEEK))[below]
    weights[np.concatenate([LIPS_OUTER, LIPS_INNER])] = 1
    weights.setflags(write=False)
    return weights


def close_small_gaps(shape: np.ndarray) -> np.ndarray:
    """Closes lips that nearly touch: gaps below `SHUT` become at most `LINE`, gaps above `OPEN` are kept.

    Args:
        shape: (..., 206, 3) canonical units; a closed mouth in the mesh still has gaps of 0.2 to 0.6.

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
    """Computes the target points of a frame.

    Args:
        points: (206, 3) mesh points of the frame, pixels.
        rest: (206, 3) the person's rest shape, canonical units.
        displacement: (206, 3) displacement from rest, canonical units.
        strength: factor on the displacement.
        pose: head pose, such as a smoothed one; by default estimated from the points.

    Returns:
        (206, 3) float64 pixels; points of weight 0 are unchanged.
    """
    pose = pose or HeadPose.of(points)
    weights = driven_weights()[:, None]
    driven = pose.repose(close_small_gaps(rest + strength * displacement))
    return np.where(weights > 0, points + weights * (driven - points), points)
