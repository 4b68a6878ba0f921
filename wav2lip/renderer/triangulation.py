"""The fixed triangulation of the lower face: mesh points and two rings around the jaw.

The inner ring follows half of the jaw motion, the outer one moves only with the head pose, so an opening jaw compresses
the throat and leaves collar, ears and background unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from preprocessing.faces.mesh import JAW, LIPS_INNER, LIPS_OUTER, MESH_INDICES, POINT, HeadPose, canonical_face

TOP = 58.0  # canonical y; points below it (from the middle of the nose down) are vertices
STRETCH = 1.5  # y stretch for the Delaunay triangulation, with which every segment of both lip rings becomes an edge
CENTER = (64.0, 80.0)  # center of the rings' enlargement, canonical units
FOLLOWING, FIXED = 1.18, 1.45  # size of the rings relative to the jaw
FOLLOW = 0.5  # fraction of the jaw motion that the inner ring follows
OVAL = np.array([POINT[127], POINT[234], *JAW, POINT[454], POINT[356]])


@dataclass(frozen=True)
class Triangulation:
    """Vertices and triangles in canonical coordinates.

    Attributes:
        rows: (M,) mesh rows of the points that are vertices.
        vertices: (V, 3) canonical positions: M mesh points, then two rings of `len(OVAL)`.
        triangles: (N, 3) vertex indices.
        inside_mouth: (N,) bool, whether all three corners lie on the inner lip ring.
        outer_lips, inner_lips: (20,) vertex indices of the lip rings, in mesh order.
    """

    rows: np.ndarray
    vertices: np.ndarray
    triangles: np.ndarray
    inside_mouth: np.ndarray
    outer_lips: np.ndarray
    inner_lips: np.ndarray

    def edges(self) -> set[frozenset[int]]:
        """All edges as pairs of vertex indices."""
        pairs = self.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
        return {frozenset(map(int, pair)) for pair in pairs}


def _ring(size: float) -> np.ndarray:
    oval = canonical_face()[OVAL].copy()
    oval[:, :2] = CENTER + (oval[:, :2] - CENTER) * size
    return oval


@cache
def triangulation() -> Triangulation:
    """The Delaunay triangulation of the canonical face, its y stretched; cached.

    It is stored, since SciPy takes a third of a second to import; a test compares.
    """
    face = canonical_face()
    rows = np.flatnonzero(face[:, 1] > TOP)
    vertices = np.vstack([face[rows], _ring(FOLLOWING), _ring(FIXED)])
    with files(__package__).joinpath("triangles.npy").open("rb") as file:
        triangles = np.load(file, allow_pickle=False).astype(np.int64)
    vertex = np.full(len(MESH_INDICES), -1)
    vertex[rows] = np.arange(len(rows))
    inner = np.asarray(np.isin(triangles, vertex[LIPS_INNER]).all(axis=1))
    return Triangulation(rows, vertices, triangles, inner, vertex[LIPS_OUTER], vertex[LIPS_INNER])


def vertices_in_frame(points: np.ndarray, pose: HeadPose, moved: np.ndarray | None = None) -> np.ndarray:
    """The vertices in a frame, before or after a motion.

    Args:
        points: (206, 3) mesh points of the frame, pixels.
        pose: head pose in the frame, which positions the rings.
        moved: (206, 3) target points; None for the vertices before the motion.

    Returns:
        (V, 3) float64 pixels.
    """
    mesh = triangulation()
    rings = pose.repose(mesh.vertices[len(mesh.rows) :])
    if moved is None:
        return np.vstack([points[mesh.rows], rings])
    rings[: len(OVAL)] += FOLLOW * (moved[OVAL] - points[OVAL])
    return np.vstack([moved[mesh.rows], rings])
