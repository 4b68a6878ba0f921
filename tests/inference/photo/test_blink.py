"""Blinks: the lid covers the eye, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from inference.photo.blink import Blinker
from inference.photo.photo_motion import BEGIN, LENGTH, TURN, Blinks
from preprocessing.faces.eyelids import Eyelids, find_eyelids
from tests.inference.photo.material import face, portrait


@pytest.fixture(scope="module")
def lids() -> tuple[Eyelids, Eyelids]:
    found = find_eyelids(portrait(), face())
    assert found is not None
    return found


def pixels(eye: Eyelids, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of places in an eye's coordinates."""
    there = np.rint(eye.outer + u[:, None] * eye.along + v[:, None] * eye.down).astype(int)
    return there[:, 1], there[:, 0]


def test_the_iris_disappears_behind_skin(lids):
    before, after = portrait(), Blinker(lids, (320, 320)).shut(portrait(), 1.0)
    for eye in lids:
        u = np.linspace(0.3, 0.7, 9)
        middle = pixels(eye, u, (eye.upper_margin(u) + eye.lower_margin(u)) / 2)
        skin = np.median(before[pixels(eye, u, eye.lower_margin(u) + 0.3)])
        assert np.min(before[middle]) < 0.35 * skin
        assert np.min(after[middle]) > 0.5 * skin
    assert find_eyelids(after, face()) is None


def test_only_the_eyes_and_the_skin_above_them_change(lids):
    before, after = portrait(), Blinker(lids, (320, 320)).shut(portrait(), 1.0)
    allowed = np.zeros(before.shape[:2], bool)
    rows, columns = np.indices(allowed.shape)
    for eye in lids:
        offset, width = np.stack([columns, rows], -1) - eye.outer, eye.along @ eye.along
        u, v = offset @ eye.along / width, offset @ eye.down / width
        allowed |= (np.abs(u - 0.5) < 0.56) & (v > eye.upper_margin(u) - 0.45) & (v < eye.lower_margin(u) + 0.15)
    assert np.array_equal(before[~allowed], after[~allowed])
    assert np.abs(before[allowed].astype(int) - after[allowed]).mean() > 10


def test_more_is_covered_the_farther_the_lid_is_down(lids):
    blinker = Blinker(lids, (320, 320))
    changed = [int((blinker.shut(portrait(), closure) != portrait()).sum()) for closure in (0.0, 0.3, 0.6, 1.0)]
    assert changed[0] == 0
    assert changed == sorted(set(changed))


def test_an_eye_beyond_the_border_is_no_problem(lids):
    cut = int(lids[0].outer[0] + 4)
    moved = tuple(
        Eyelids(eye.outer - [cut, 0], eye.along, eye.down, eye.corners, eye.upper, eye.lower, 1) for eye in lids
    )
    picture = portrait()[:, cut:]
    result = Blinker(moved, picture.shape[:2]).shut(picture, 1.0)
    assert np.array_equal(result[:, 20:], Blinker(lids, (320, 320)).shut(portrait(), 1.0)[:, cut + 20 :])


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_blinks_are_two_to_six_seconds_apart_and_short(seed):
    blinks, step = Blinks(seed), 0.002
    closure = np.array([blinks.closure(k * step) for k in range(round(60 / step))])
    shut = closure > 0
    begins = np.flatnonzero(shut[1:] & ~shut[:-1]) * step
    ends = np.flatnonzero(~shut[1:] & shut[:-1]) * step
    assert 60 / TURN - 1 <= len(begins) <= 60 / TURN
    assert np.all((np.diff(begins) > 1.99) & (np.diff(begins) < 6.01))
    assert np.all((ends - begins[: len(ends)] > LENGTH[0] - 0.01) & (ends - begins[: len(ends)] < LENGTH[1] + 0.01))
    assert begins[0] >= BEGIN[0]
    assert closure.max() == 1.0
    assert np.abs(np.diff(closure)).max() < 0.06  # 1.5 / (0.35 * 0.2 s) a second at most


def test_blinks_depend_on_the_seed_and_the_time_alone():
    times = np.arange(0, 30, 0.04)
    first = [Blinks(3).closure(time) for time in times]
    assert first == [Blinks(3).closure(time) for time in times[::-1]][::-1]
    assert first != [Blinks(4).closure(time) for time in times]
