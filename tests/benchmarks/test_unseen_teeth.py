"""The benchmark of drawn teeth: sharpness of known patterns."""

import cv2
import numpy as np
import pytest

from benchmarks.unseen_teeth import around_mouth, sharpness
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER
from tests.wav2lip.renderer.faces import frame, opened, pose, shut_face


def test_sharpness_is_that_of_the_patterns_inside_the_lips_and_on_them():
    """The Laplacian of a checkerboard of ±a is ±8 a, of stripes of ±b ±4 b; noise around the lips does not count."""
    points = pose().repose(shut_face() + opened(9))
    image = frame()
    height, width = image.shape[:2]
    row, column = np.ogrid[:height, :width]
    inside, lips = (np.zeros((height, width), np.uint8) for _ in range(2))
    for mask, ring in ((inside, LIPS_INNER), (lips, LIPS_OUTER)):
        cv2.fillPoly(mask, [np.round(points[ring, :2]).astype(np.int32)], 1)
    image[lips > 0] = (128 + 5 * (-1) ** (column + 0 * row))[lips > 0][:, None]
    image[inside > 0] = (128 + 10 * (-1) ** (row + column))[inside > 0][:, None]
    inner, outer, area = sharpness(image, points)
    assert inner == pytest.approx(80)
    assert outer == pytest.approx(20)
    assert 0.5 * inside.sum() < area < inside.sum()


def test_the_sheet_shows_the_middle_of_the_mouth_in_its_middle():
    points = pose().repose(shut_face())
    image = np.zeros_like(frame())
    middle = points[LIPS_OUTER, :2].mean(axis=0).round().astype(int)
    cv2.circle(image, middle.tolist(), 6, (255, 255, 255), -1)
    view = around_mouth(image, points)
    rows, columns = np.nonzero(view[..., 0] > 128)
    np.testing.assert_allclose((columns.mean(), rows.mean()), (view.shape[1] / 2, view.shape[0] / 2), atol=5)
