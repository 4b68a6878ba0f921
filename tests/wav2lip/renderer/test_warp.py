"""The warp, in NumPy and in torch."""

import numpy as np
import pytest
import torch

from preprocessing.faces.mesh import LIPS_OUTER, canonical_face
from tests.wav2lip.renderer.faces import SCALE, frame, opened, pose
from wav2lip.renderer.target import target_shape
from wav2lip.renderer.triangulation import triangulation, vertices_in_frame
from wav2lip.renderer.warp import Rectangle, displacement, warp_frame
from wav2lip.renderer.warp_batch import displacement_batch, warp_batch


def vertices(by: float = 6.0, scale: float = SCALE, yaw: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    head = pose(scale, yaw=yaw)
    points = head.repose(canonical_face())
    return vertices_in_frame(points, head), vertices_in_frame(
        points, head, target_shape(points, canonical_face(), opened(by))
    )


@pytest.mark.parametrize("yaw", [0.0, 25.0])
def test_both_forms_give_the_same_field(yaw: float) -> None:
    source, target = vertices(scale=1.0, yaw=yaw)
    numpy_field = displacement(source, target, 1.0, Rectangle(0, 0, 200, 190), step=1)
    torch_field = displacement_batch(torch.from_numpy(source)[None], torch.from_numpy(target)[None], 1.0, 200, 190)
    np.testing.assert_allclose(torch_field[0].numpy(), numpy_field, atol=2e-3)


def test_coarse_grids_are_near_the_exact_field() -> None:
    source, target = vertices()
    area = Rectangle(0, 0, 480, 440)
    error = np.abs(displacement(source, target, SCALE, area) - displacement(source, target, SCALE, area, step=1))
    assert np.percentile(error, 99) < 0.15
    assert error.mean() < 0.02


def test_a_shift_moves_pixels_exactly() -> None:
    image, (source, _) = frame(), vertices()
    target = source + np.array([3, 2, 0])
    pixels, area = warp_frame(image, source, target, SCALE)
    lips = Rectangle.around(target[triangulation().outer_lips, :2], 2, 480, 440)
    moved = pixels[lips.within(area)]
    expected = image[lips.top - 2 : lips.bottom - 2, lips.left - 3 : lips.right - 3]
    np.testing.assert_array_equal(moved, expected)


def test_an_affine_motion_gives_its_affine_field_at_the_lips() -> None:
    source, _ = vertices()
    center = source[triangulation().outer_lips].mean(axis=0)
    target = source.copy()
    target[:, :2] = center[:2] + (source - center)[:, :2] @ np.array([[1.1, 0.05], [-0.02, 1.2]])
    area = Rectangle(0, 0, 480, 440)
    field = displacement(source, target, SCALE, area)
    where = np.round(target[triangulation().outer_lips, :2]).astype(int)
    back = (where - center[:2]) @ np.linalg.inv([[1.1, 0.05], [-0.02, 1.2]]) + center[:2] - where
    np.testing.assert_allclose(field[where[:, 1], where[:, 0]], back, atol=0.06)


def test_the_field_is_zero_outside_the_triangulation_and_nothing_jumps_at_its_border() -> None:
    source, target = vertices(8)
    field = displacement(source, target, SCALE, Rectangle(0, 0, 480, 440))
    hull = source[:, :2]
    outside = np.ones((440, 480), bool)
    left, top = hull.min(axis=0) - 3
    right, bottom = hull.max(axis=0) + 3
    outside[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = False
    assert np.abs(field[outside]).max() == 0


def test_gradients_reach_both_sets_of_vertices() -> None:
    source, target = (torch.from_numpy(points)[None].requires_grad_() for points in vertices(scale=1.0))
    field = displacement_batch(source, target, 1.0, 200, 190)
    image = torch.linspace(0, 1, 190, dtype=torch.float64)[None, None, :, None].expand(1, 3, 190, 200)
    warp_batch(image, field).square().mean().backward()
    lips = triangulation().outer_lips
    assert source.grad is not None
    assert target.grad is not None
    assert source.grad[0, lips, 1].abs().min() > 0
    assert torch.isfinite(target.grad).all()


def test_the_jaw_moves_with_the_mouth_and_the_collar_stays() -> None:
    source, target = vertices(8)
    field = displacement(source, target, SCALE, Rectangle(0, 0, 480, 440))
    face = pose().repose(canonical_face())
    x, chin = face[LIPS_OUTER, 0].mean(), face[:, 1].max()
    moved = -field[:, round(x), 1] / SCALE
    assert moved[round(chin + 3 * SCALE)] > 4
    assert np.abs(moved[round(chin + 24 * SCALE) :]).max() == 0
