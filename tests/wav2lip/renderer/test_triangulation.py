"""The triangulation of the lower face."""

import numpy as np
import pytest
from scipy.spatial import Delaunay

from preprocessing.faces.mesh import JAW, POINT, canonical_face
from tests.wav2lip.renderer.faces import opened, pose
from wav2lip.renderer.triangulation import FOLLOW, OVAL, STRETCH, triangulation, vertices_in_frame


@pytest.mark.parametrize("ring", ["outer_lips", "inner_lips"])
def test_every_segment_of_a_lip_ring_is_an_edge(ring: str) -> None:
    mesh = triangulation()
    edges, numbers = mesh.edges(), getattr(mesh, ring)
    assert all(frozenset((int(a), int(b))) in edges for a, b in zip(numbers, np.roll(numbers, -1), strict=True))


def test_the_mouths_inside_is_filled_by_triangles_of_the_inner_ring() -> None:
    assert triangulation().inside_mouth.sum() == 20 - 2  # of a polygon of 20 corners


def test_triangles_do_not_overlap() -> None:
    mesh = triangulation()
    corners = mesh.vertices[mesh.triangles][..., :2]
    (ax, ay), (bx, by) = (
        np.moveaxis(corners[:, 1] - corners[:, 0], -1, 0),
        np.moveaxis(corners[:, 2] - corners[:, 0], -1, 0),
    )
    areas = np.abs(ax * by - ay * bx) / 2
    outer = mesh.vertices[-len(OVAL) :, :2]
    x, y = outer.T
    ring_area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert areas.sum() >= ring_area - 1e-6


def test_the_inner_ring_follows_half_of_the_jaw_and_the_outer_one_stays() -> None:
    head = pose()
    face = canonical_face()
    points, moved = head.repose(face), head.repose(face + opened(6))
    motion = vertices_in_frame(points, head, moved) - vertices_in_frame(points, head)
    followed = motion[-2 * len(OVAL) : -len(OVAL)]
    chin = int(np.flatnonzero(POINT[152] == OVAL)[0])
    np.testing.assert_allclose(followed[chin], FOLLOW * (moved - points)[POINT[152]])
    assert POINT[152] in JAW
    assert np.abs(motion[-len(OVAL) :]).max() == 0


def test_the_stored_triangles_are_delaunays() -> None:
    mesh = triangulation()
    expected = Delaunay(mesh.vertices[:, :2] * (1, STRETCH)).simplices
    assert {frozenset(corners) for corners in mesh.triangles.tolist()} == {frozenset(one) for one in expected.tolist()}
