"""Views: points map to the right crop position at any size, rotation and reduction."""

import cv2
import numpy as np
import pytest

from preprocessing.faces.landmarks.views import View, box_view, face_view, mouth_view, roll
from preprocessing.faces.mesh import LIPS_OUTER, HeadPose, canonical_face


def dotted(place: np.ndarray, width: float, size: tuple[int, int] = (400, 300)) -> np.ndarray:
    """A black frame (width, height) with a soft dot."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    dot = 255 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * width**2))
    return np.repeat(dot[..., None], 3, -1).astype(np.uint8)


@pytest.mark.parametrize(("side", "angle"), [(40.0, 0.0), (96.0, 0.4), (250.0, -1.2), (390.0, 0.1)])
def test_a_dot_is_where_the_map_says(side, angle):
    place = np.array([205.3, 148.6, 0.0])
    view = View(np.array([200.0, 150.0]), side, angle)
    crop = view.crop(dotted(place, side / 16), 96)[..., 0].astype(float)
    seen = [(crop * axis).sum() / crop.sum() for axis in np.meshgrid(np.arange(96), np.arange(96))]
    assert np.allclose(seen, view.to_crop(place, 96)[:2], atol=0.15)


def test_points_come_back():
    points = np.random.default_rng(0).uniform(-50, 500, (206, 3))
    view = View(np.array([123.0, 77.0]), 231.0, 0.7)
    assert np.allclose(view.to_frame(view.to_crop(points, 112), 112), points)


def test_a_view_off_the_frame_is_black():
    frame = np.full((50, 50, 3), 200, np.uint8)
    for side in (20.0, 2000.0):
        assert not View(np.array([5000.0, -3000.0]), side).crop(frame, 96).any()


def test_moving_is_along_the_views_own_axes():
    moved = View(np.array([10.0, 20.0]), 100.0, np.pi / 2).moved([0.1, 0.0], 2.0, 0.5)
    assert np.allclose(moved.center, [10, 30])  # the view's x axis points down
    assert (moved.side, moved.angle) == (200.0, np.pi / 2 + 0.5)


@pytest.mark.parametrize("angle", [-0.8, 0.0, 0.5])
def test_a_rolled_head_is_upright_in_its_views(angle):
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    pose = HeadPose(np.array(3.0), turn, np.array([300.0, 200.0, 0.0]))
    points = pose.repose(canonical_face())
    assert roll(pose) == pytest.approx(angle)
    face, mouth = (view(HeadPose.of(points)).to_crop(points, 100) for view in (face_view, mouth_view))
    assert ((face[:, :2] > 5) & (face[:, :2] < 95)).all()
    assert np.allclose(mouth[LIPS_OUTER, :2].mean(0), 50, atol=8)
    across = mouth[LIPS_OUTER[10], :2] - mouth[LIPS_OUTER[0], :2]
    assert abs(np.arctan2(across[1], across[0])) < 0.03


def test_a_box_gives_an_upright_view_around_it():
    view = box_view(np.array([10, 20, 110, 160]))
    assert (view.center.tolist(), view.angle) == ([60, 90], 0)
    assert 150 < view.side < 220


def test_strong_reduction_does_not_alias():
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = View(np.array([400.0, 400.0]), 780.0).crop(stripes, 60)
    assert cv2.meanStdDev(crop)[1].max() < 12
