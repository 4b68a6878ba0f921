"""The fixed triangulation of the lower face: mesh points and two rings around the jaw.

The inner ring follows half of the jaw's motion, the outer one stays where the head's pose puts it, so a falling jaw
pushes the throat together and leaves collar, ears and background alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import Delaunay

from preprocessing.faces.mesh import JAW, LIPS_INNER, LIPS_OUTER, MESH_INDICES, POINT, HeadPose, canonical_face

TOP = 58.0  # canonical y; points below it, from the middle of the nose down, are vertices
STRETCH = 1.5  # of y before Delaunay: so every segment of both lip rings becomes an edge
CENTRE = (64.0, 80.0)  # from which the rings are enlarged, canonical units
FOLLOWING, FIXED = 1.18, 1.45  # size of the rings over the jaw's
FOLLOW = 0.5  # of the jaw's motion is shared by the inner ring
OVAL = np.array([POINT[127], POINT[234], *JAW, POINT[454], POINT[356]])


@dataclass(frozen=True)
class Triangulation:
    """Vertices and triangles in canonical coordinates.

    Attributes:
        rows: (M,) rows of the mesh points that are vertices.
        vertices: (V, 3) canonical positions: M mesh points, then two rings of `len(OVAL)`.
        triangles: (N, 3) vertex numbers.
        inside_mouth: (N,) whether all three corners lie on the inner lip ring.
        outer_lips, inner_lips: (20,) vertex numbers of the lip rings, in the mesh's order.
    """

    rows: np.ndarray
    vertices: np.ndarray
    triangles: np.ndarray
    inside_mouth: np.ndarray
    outer_lips: np.ndarray
    inner_lips: np.ndarray

    def edges(self) -> set[frozenset[int]]:
        """Every edge as a pair of vertex numbers."""
        pairs = self.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
        return {frozenset(map(int, pair)) for pair in pairs}


def _ring(size: float) -> np.ndarray:
    oval = canonical_face()[OVAL].copy()
    oval[:, :2] = CENTRE + (oval[:, :2] - CENTRE) * size
    return oval


@cache
def triangulation() -> Triangulation:
    """The triangulation of the canonical face, made once."""
    face = canonical_face()
    rows = np.flatnonzero(face[:, 1] > TOP)
    vertices = np.vstack([face[rows], _ring(FOLLOWING), _ring(FIXED)])
    triangles = Delaunay(vertices[:, :2] * (1, STRETCH)).simplices
    place = np.full(len(MESH_INDICES), -1)
    place[rows] = np.arange(len(rows))
    inner = np.asarray(np.isin(triangles, place[LIPS_INNER]).all(axis=1))
    return Triangulation(rows, vertices, triangles, inner, place[LIPS_OUTER], place[LIPS_INNER])


def vertices_in_frame(points: np.ndarray, pose: HeadPose, moved: np.ndarray | None = None) -> np.ndarray:
    """The vertices in a frame before a motion, or after it.

    Args:
        points: (206, 3) mesh points as seen, pixels.
        pose: the head's pose in the frame, places the rings.
        moved: (206, 3) where the points shall go; None for the vertices as seen.

    Returns:
        (V, 3) float64 pixels.
    """
    mesh = triangulation()
    rings = pose.repose(mesh.vertices[len(mesh.rows) :])
    if moved is None:
        return np.vstack([points[mesh.rows], rings])
    rings[: len(OVAL)] += FOLLOW * (moved[OVAL] - points[OVAL])
    return np.vstack([moved[mesh.rows], rings])
