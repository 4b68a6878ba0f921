"""The renderer as a whole."""

import cv2
import numpy as np
import pytest

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, Landmarks
from tests.wav2lip.renderer.faces import SCALE, frame, opened, pose, shut_face
from wav2lip.renderer.mouth_choice import MouthChooser
from wav2lip.renderer.renderer import MouthRenderer, target_shape
from wav2lip.renderer.triangulation import vertices_in_frame


def drawn(height: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A frame with red lips, open by `height` units and white in between, and its points."""
    points = pose().repose(shut_face() + opened(height))
    image = cv2.GaussianBlur(frame(seed=seed) // 8 + np.array([120, 140, 180], np.uint8), (0, 0), 1.0)
    for ring, color in ((LIPS_OUTER, (70, 60, 170)), (LIPS_INNER, (220, 225, 230))):
        cv2.fillPoly(image, [np.round(points[ring, :2] * 16).astype(np.int32)], color, cv2.LINE_AA, 4)
    return image, points


def test_the_identity_leaves_the_frame_bit_identical() -> None:
    image, points = drawn(3)
    renderer = MouthRenderer()
    renderer.observe(image, Landmarks(points))
    np.testing.assert_array_equal(renderer.render(image, points, points), image)
    target = target_shape(points, shut_face(), opened(9))
    np.testing.assert_array_equal(renderer.render(image, points, target, amount=0.0), image)


def test_pixels_outside_the_outer_ring_are_bit_identical() -> None:
    image, points = drawn(0)
    before = image.copy()
    made = MouthRenderer().render(image, points, target_shape(points, shut_face(), opened(10)))
    np.testing.assert_array_equal(image, before)
    ring = vertices_in_frame(points, pose())[-21:, :2]
    left, top = np.floor(ring.min(axis=0)).astype(int)
    right, bottom = np.ceil(ring.max(axis=0)).astype(int) + 1
    outside = np.ones(image.shape[:2], bool)
    outside[top:bottom, left:right] = False
    np.testing.assert_array_equal(made[outside], image[outside])
    assert (made != image).any()


def test_rendering_is_deterministic() -> None:
    results = []
    for _ in range(2):
        renderer = MouthRenderer()
        for height in (2, 5, 9):
            image, points = drawn(height)
            renderer.observe(image, Landmarks(points))
        image, points = drawn(0)
        results.append(renderer.render(image, points, target_shape(points, shut_face(), opened(7))))
    np.testing.assert_array_equal(*results)


def test_a_shut_mouth_opens_dark_without_streaks() -> None:
    image, points = drawn(0)
    target = target_shape(points, shut_face(), opened(10))
    made = MouthRenderer().render(image, points, target).astype(float)
    (left, top), (right, bottom) = target[LIPS_INNER, :2].min(axis=0), target[LIPS_INNER, :2].max(axis=0)
    x, upper, lower = round((left + right) / 2), 17, 8  # pixels of lip and drawn teeth above and below
    cavity = made[round(top) + upper : round(bottom) - lower, x - 10 : x + 10]
    assert cavity.mean() < 80
    assert np.abs(np.diff(cavity, axis=1)).max() < 8  # a streak is a difference between adjacent columns


def test_an_open_mouth_shuts_without_teeth() -> None:
    image, points = drawn(8)
    target = target_shape(points, shut_face(), np.zeros((206, 3)))
    renderer = MouthRenderer()
    renderer.observe(image, Landmarks(points))
    made = renderer.render(image, points, target)
    lips = target[LIPS_INNER, :2]
    (left, top), (right, bottom) = np.floor(lips.min(axis=0)).astype(int), np.ceil(lips.max(axis=0)).astype(int)
    seam = made[top - 3 : bottom + 4, left + 10 : right - 10]
    assert seam.min(axis=2).max() < 150  # teeth are 220 in every channel
    assert image[:, left + 10 : right - 10].min(axis=2).max() > 200


def test_the_lip_line_of_a_small_face_is_dark() -> None:
    """At a pixel a unit, a slit covers a fraction of a pixel: the pressed teeth must not shine through."""
    image, points = drawn(8)
    small, factor = cv2.resize(image, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA), 1 / SCALE
    here = points.copy()
    here[:, :2] = (here[:, :2] + 0.5) * factor - 0.5
    here[:, 2] *= factor
    target = target_shape(here, shut_face(), np.zeros((206, 3)))
    made = MouthRenderer().render(small, here, target).astype(int)
    left, right = target[LIPS_INNER, 0].min() + 6, target[LIPS_INNER, 0].max() - 6
    line = round(float(target[LIPS_INNER, 1].mean()))
    seam = made[line - 2 : line + 3, round(left) : round(right)].sum(axis=2)
    lips = made[line - 5 : line - 3, round(left) : round(right)].sum(axis=2).mean()
    assert seam.min(axis=0).max() < 0.8 * lips


def test_teeth_come_from_the_bank_and_stay_with_the_head() -> None:
    renderer = MouthRenderer()
    image, points = drawn(10)
    renderer.observe(image, Landmarks(points))
    shut, shut_points = drawn(0)
    for height in (6, 9):
        target = target_shape(shut_points, shut_face(), opened(height))
        made = renderer.render(shut, shut_points, target)
        middle = target[LIPS_INNER, :2].mean(axis=0).round().astype(int)
        assert made[middle[1], middle[0]].min() > 190


def test_a_covered_face_is_not_learned_from() -> None:
    renderer = MouthRenderer()
    image, points = drawn(8)
    renderer.observe(image, Landmarks(points, presence=0.2))
    assert renderer.bank.entries == []


def test_contradictions_are_refused() -> None:
    image, points = drawn(3)
    with pytest.raises(UsageError, match="amount"):
        MouthRenderer().render(image, points, points, amount=1.5)
    with pytest.raises(UsageError, match="lookahead"):
        MouthRenderer(chooser=MouthChooser(lookahead=2))
