"""Fits the 206 mesh points to 68 landmarks of the iBUG scheme (300-W), as face-alignment's FAN predicts them.

45 of the 68 landmarks coincide with mesh points. The canonical face is posed by those that speech hardly moves
(weak perspective), and the remaining differences are spread over the mesh by radial basis functions. Upper and lower
lip lie close together and move apart, so the distance of two points also counts on which side of the mouth they are.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, POINT, HeadPose, canonical_face

POINTS = 68
MESH_OF: dict[int, int] = {
    # jaw, from the image's left to its right
    1: 234, 3: 58, 4: 172, 5: 136, 6: 149, 7: 148, 8: 152, 9: 377, 10: 378, 11: 365, 12: 397, 13: 288, 15: 454,
    27: 168, 28: 197, 32: 97, 33: 2, 34: 326,  # nose
    36: 33, 39: 133, 42: 362, 45: 263,  # eye corners
    48: 61, 49: 39, 50: 37, 51: 0, 52: 267, 53: 269, 54: 291, 55: 405, 56: 314, 57: 17, 58: 84, 59: 181,  # outer lips
    60: 78, 61: 82, 62: 13, 63: 312, 64: 308, 65: 317, 66: 14, 67: 87,  # inner lips
}  # fmt: skip
"""Landmark of the iBUG scheme → mesh index of the same place."""
RIGID = (1, 15, 27, 28, 33, 36, 39, 42, 45)  # landmarks that speech hardly moves
MOUTH_GAP = 15.0  # units by which the middles of upper and lower lip count as apart
MOUTH_REACH = 12.0  # units from the lips over which that fades


def fit_mesh(landmarks: np.ndarray) -> np.ndarray:
    """The mesh points of 68 landmarks in pixels, (68, 2) → (206, 3) float64.

    Depth and everything between the landmarks are the mean face's, so this is coarser than a mesh that was looked for.

    Raises:
        UsageError: not 68 landmarks, or they lie on a line.
    """
    if landmarks.shape != (POINTS, 2):
        raise UsageError(f"68 landmarks (68, 2) are needed, not {landmarks.shape}")
    pose = weak_perspective(landmarks[list(RIGID)], canonical_face()[_rows(RIGID)])
    posed = pose.repose(canonical_face())
    error = landmarks[list(MESH_OF)] - posed[_rows(MESH_OF)][:, :2]
    posed[:, :2] += _spread() @ error
    return posed


def weak_perspective(points: np.ndarray, model: np.ndarray) -> HeadPose:
    """The pose that takes model points (N, 3) to (N, 2) pixels, least squares; the depth of their middle is 0.

    Raises:
        UsageError: the points lie on a line.
    """
    middle, center = points.mean(0), model.mean(0)
    affine, _, _, _ = np.linalg.lstsq(model - center, points - middle, rcond=None)
    left, sizes, right = np.linalg.svd(affine.T, full_matrices=False)  # (2, 3): the nearest scaled rows of a rotation
    scale = float(sizes.mean())
    if sizes[1] < 1e-3 * max(float(sizes[0]), 1e-9):
        raise UsageError("the landmarks lie on a line: no face has that shape")
    across, down = left @ right
    rotation = np.stack([across, down, np.cross(across, down)])
    place = np.append(middle, 0.0) - scale * (rotation @ center)
    return HeadPose(np.asarray(scale), rotation, place)


def _rows(landmarks: object) -> np.ndarray:
    """Rows of our arrays for landmarks of the iBUG scheme."""
    return np.array([POINT[MESH_OF[one]] for one in landmarks])  # type: ignore[attr-defined]


@cache
def _spread() -> np.ndarray:
    """(206, N): weights that spread values at the N landmarks over the mesh; exact there, a plane's are kept."""
    places = np.column_stack([canonical_face(), MOUTH_GAP * mouth_side()])
    known = _rows(MESH_OF)
    flat = np.column_stack([np.ones(len(places)), canonical_face()[:, :2]])
    count = len(known)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _distances(places[known], places[known])
    system[:count, count:], system[count:, :count] = flat[known], flat[known].T
    weights = np.column_stack([_distances(places, places[known]), flat]) @ np.linalg.inv(system)[:, :count]
    weights.setflags(write=False)
    return weights


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The linear kernel, -|x - y|: (N, D), (M, D) → (N, M)."""
    return -np.linalg.norm(one[:, None] - other[None], axis=-1)


def mouth_side() -> np.ndarray:
    """(206,) side of the mouth: 1 at the middle of the lower lip, -1 at the upper's, 0 at the corners and far away."""
    face, place = canonical_face(), 2 * np.pi * np.arange(20) / 20
    ring, side = face[[*LIPS_OUTER, *LIPS_INNER]], np.tile(np.sin(place), 2)  # the lower lip comes first
    away = np.linalg.norm(face[:, None, :2] - ring[None, :, :2], axis=-1)
    return side[away.argmin(1)] * np.exp(-((away.min(1) / MOUTH_REACH) ** 2))
