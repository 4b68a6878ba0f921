"""How visible a switch between two inner mouths is."""

import cv2
import numpy as np
import pytest

from preprocessing.faces.mesh import LIPS_INNER, HeadPose
from tests.wav2lip.renderer.faces import frame, opened, pose, shut_face
from wav2lip.renderer.inner_mouth import InnerMouth, crop_mouth, mouth_plane
from wav2lip.renderer.mouth_fill import Opening, fill_mouth, relight, retrieve_mouth
from wav2lip.renderer.mouth_look import UNKNOWN, look_differences
from wav2lip.renderer.warp import Rectangle


def mouth(picture: np.ndarray, height: float = 8.0) -> InnerMouth:
    points = pose().repose(shut_face() + opened(height))
    made = crop_mouth(picture, points, HeadPose.of(points))
    assert made is not None
    return made


def test_a_difference_is_that_of_the_brightness_where_both_are_open() -> None:
    flat = np.full_like(frame(), 90)
    looks = [mouth(flat).look, mouth(flat + 25, height=4.0).look, mouth(flat).look]
    assert look_differences(looks) == pytest.approx(np.array([[0, 25, 0], [25, 0, 25], [0, 25, 0]]), abs=0.5)


def test_mouths_that_share_no_opening_cannot_be_compared() -> None:
    look = mouth(frame()).look
    assert look_differences([look, np.full_like(look, np.nan)])[0, 1] == UNKNOWN


def test_an_entry_takes_the_light_of_the_frame() -> None:
    flat = np.full_like(frame(), 100)
    entry = mouth(flat)
    assert relight(entry, entry.lips) == pytest.approx(np.ones(3))
    assert (relight(entry, entry.lips * 1.1) > 1.05).all()
    assert relight(entry, entry.lips * 9) == pytest.approx(np.full(3, 1.3))


@pytest.mark.parametrize("height", [8.0, 9.5])
def test_a_slightly_higher_opening_shows_the_entry_without_a_dark_arc(height: float) -> None:
    picture = cv2.GaussianBlur(frame(), (0, 0), 4) // 4 + 120
    points = pose().repose(shut_face() + opened(height))
    area = Rectangle(0, 0, picture.shape[1], picture.shape[0])
    ring, plane = points[LIPS_INNER, :2], mouth_plane(pose())
    pixels = np.full_like(picture, 120)
    fill_mouth(pixels, area, Opening(ring, plane, float(pose().scale), 1.0), mouth(picture), None)
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(ring).astype(np.int32)], 1)
    core = cv2.erode(inside, np.ones((5, 9))) > 0
    assert pixels[core].min() > 90


def test_a_shifted_entry_is_moved_under_the_target() -> None:
    entry, plane = mouth(frame()), mouth_plane(pose())
    area = Rectangle(0, 0, 480, 440)
    straight, alpha = retrieve_mouth(entry.ring, plane, area, entry)
    units = np.array([2.0, 1.0])
    moved = plane.copy()
    moved[:, 2] -= plane[:, :2] @ units
    displaced, _ = retrieve_mouth(entry.ring + units, moved, area, entry)
    assert displaced[alpha > 0.99] == pytest.approx(straight[alpha > 0.99], abs=1.0)
