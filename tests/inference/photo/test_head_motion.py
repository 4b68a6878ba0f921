"""The head of a photo: how it turns is known, and the picture's borders stay."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from inference.photo.head_motion import SWAY, HeadSway, HeadWarp
from inference.photo.photo_motion import PhotoMotion
from preprocessing.faces.mesh import HeadPose, opening
from tests.inference.photo.material import face, portrait, seen

TIMES = np.arange(0, 120, 0.04)


def angles_of(pose: HeadPose) -> np.ndarray:
    """Turn to a side, nod and tilt in degrees."""
    turn = pose.rotation
    return np.degrees([np.arcsin(-turn[2, 0]), np.arctan2(turn[2, 1], turn[2, 2]), np.arctan2(turn[1, 0], turn[0, 0])])


def test_the_head_sways_slowly_within_its_bounds_and_begins_at_rest():
    sway = HeadSway(5)
    angles = np.array([sway.angles(time) for time in TIMES])
    assert not angles[0].any()
    assert np.all(np.abs(angles) <= SWAY)
    assert np.all(angles.std(0) > 0.2 * SWAY)
    assert np.degrees(np.abs(np.diff(angles, axis=0))).max() < 0.15  # a frame
    assert np.degrees(np.abs(np.diff(angles, 2, axis=0))).max() < 0.02


def test_the_sway_depends_on_the_seed_and_the_time_alone():
    assert np.array_equal(HeadSway(5).angles(7.3), HeadSway(5).angles(7.3))
    assert not np.allclose(HeadSway(5).angles(7.3), HeadSway(6).angles(7.3))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_landmarks_see_the_head_move_as_it_was_turned(axis):
    """A tilt is seen as an angle. A turn or a nod moves the face by its distance from the neck, more in the middle.

    Between 3 degrees to either side, since the angles that the landmarks see of a still head stray by a degree.
    """
    warp = HeadWarp(face(), (320, 320))
    angles = np.zeros(3)
    angles[axis] = np.radians(3)
    back, moved = (seen(warp.turn(portrait(), side * angles)) for side in (-1, 1))
    step = (moved.points - back.points)[:, :2].mean(0)
    turned = (angles_of(moved.pose) - angles_of(back.pose)) * [-1, 1, 1]  # to the right, down
    if axis == 2:
        assert turned[2] == pytest.approx(6, abs=1.4)
    else:
        distance = 55 * float(back.pose.scale)  # of the face's mean depth from the neck, about
        expected = np.zeros(2)
        expected[axis] = 2 * distance * angles[axis]
        np.testing.assert_allclose(step, expected, atol=0.35 * expected[axis])
        assert 2 < turned[axis] < 8


@pytest.mark.parametrize(
    "frame", [(slice(None), slice(None)), (slice(40, 200), slice(100, 230)), (slice(5, 86), slice(60, 320))]
)
def test_nothing_from_beyond_the_border_is_seen_and_the_border_stays(frame):
    """Every pixel comes from a place inside: the places are turned like a picture."""
    rows, columns = frame
    picture = np.ascontiguousarray(portrait()[rows, columns])
    height, width = picture.shape[:2]
    points = face() - np.array([columns.start or 0, rows.start or 0, 0])
    warp = HeadWarp(points, (height, width))
    turned = warp.turn(picture, SWAY)
    for side in (np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:]):
        assert np.array_equal(turned[side], picture[side])
    inside = np.full((height, width, 3), 200, np.uint8)
    framed = cv2.copyMakeBorder(inside[2:-2, 2:-2], 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    assert np.array_equal(warp.turn(framed, SWAY)[3:-3, 3:-3], inside[3:-3, 3:-3])
    assert np.array_equal(warp.turn(framed, -SWAY)[3:-3, 3:-3], inside[3:-3, 3:-3])


def test_the_mouth_is_as_open_as_in_the_still_photo():
    motion, still = PhotoMotion(portrait(), face(), "full"), seen(portrait())
    known = opening(still.pose.unpose(still.points))
    for time in (2.0, 5.0, 11.0, 17.0):
        moved = seen(motion.at(portrait(), time))
        assert opening(moved.pose.unpose(moved.points)) == pytest.approx(known, abs=0.5)


def test_a_photo_moves_the_same_way_each_time_and_begins_as_it_is():
    one, other = (PhotoMotion(portrait(), face(), "full") for _ in range(2))
    assert one.blinking
    assert np.array_equal(one.at(portrait(), 0.0), portrait())
    assert np.array_equal(one.at(portrait(), 9.2), other.at(portrait(), 9.2))
    assert not np.array_equal(one.at(portrait(), 9.2), PhotoMotion(portrait(), face(), "full", 1).at(portrait(), 9.2))


def test_a_head_that_does_not_blink_moves_all_the_same():
    full, head = (PhotoMotion(portrait(), face(), kind) for kind in ("full", "head"))
    assert not head.blinking
    blinked = [k for k in range(250) if not np.array_equal(full.at(portrait(), k / 25), head.at(portrait(), k / 25))]
    assert 5 <= len(blinked) <= 30


def test_a_large_photo_is_warped_in_strips_without_seams():
    large, points = cv2.resize(portrait(), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), 3 * face() + 1
    small = HeadWarp(face(), (320, 320)).turn(portrait(), SWAY)
    turned = HeadWarp(points, (960, 960)).turn(large, SWAY)
    shrunk = cv2.resize(turned, (320, 320), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small).mean() < 2.5
    ramp = np.repeat(np.tile(np.arange(960) // 4, (960, 1)).T[..., None], 3, 2).astype(np.uint8)
    assert np.diff(HeadWarp(points, (960, 960)).turn(ramp, SWAY).astype(int), axis=0).max() <= 1


def test_a_tiny_photo_stands_still():
    tiny = portrait()[100:114, 100:114]
    assert np.array_equal(HeadWarp(face() - np.array([100, 100, 0]), (14, 14)).turn(tiny, SWAY), tiny)
