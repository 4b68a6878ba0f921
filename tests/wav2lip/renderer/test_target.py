"""Target shapes."""

import numpy as np

from preprocessing.faces.mesh import STABLE, HeadPose, canonical_face, opening
from tests.wav2lip.renderer.faces import opened, pose, shut_face
from wav2lip.renderer.target import LINE, LOWER, UPPER, close_small_gaps, driven_weights, target_shape


def test_a_face_at_rest_that_shall_rest_stays() -> None:
    points = pose(yaw=20).repose(shut_face())
    np.testing.assert_allclose(target_shape(points, shut_face(), np.zeros((206, 3))), points, atol=1e-9)


def test_points_of_weight_zero_are_exactly_those_seen() -> None:
    points = pose().repose(canonical_face() + np.random.default_rng(0).normal(0, 0.1, (206, 3)))
    moved = target_shape(points, canonical_face(), opened(5))
    still = driven_weights() == 0
    assert still[STABLE].all()
    np.testing.assert_array_equal(moved[still], points[still])


def test_strength_scales_the_displacement() -> None:
    head = pose()
    points = head.repose(canonical_face())
    shapes = [target_shape(points, shut_face(), opened(4), strength) for strength in (1, 2)]
    heights = [opening(HeadPose.of(points).unpose(shape)) for shape in shapes]
    np.testing.assert_allclose(heights, [4.3, 8.3], atol=1e-6)


def test_small_gaps_become_a_line_and_great_ones_stay() -> None:
    face = canonical_face().copy()
    for gap, wanted in ((0.2, 0.2), (0.6, LINE), (3.0, 3.0), (-0.5, 0.0)):
        face[UPPER] = face[LOWER] - (0, gap, 0)
        closed = close_small_gaps(face)
        np.testing.assert_allclose((closed[LOWER] - closed[UPPER])[:, 1], wanted, atol=1e-9)
