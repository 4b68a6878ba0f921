"""Mouth motion: synthetic mouths, planted lags, and hand-computed curves."""

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from evaluation.metrics.motion import (
    MOTION_THRESHOLD,
    REST_STD,
    agreement,
    articulation,
    at_rest,
    envelope,
    lagged_correlation,
    leak,
    mean_speed,
    moving_share,
    opening,
    response,
)
from preprocessing.faces.crops import CropGeometry, crop

WAVE = np.sin(np.arange(100) * 2 * np.pi / 20)  # a standard deviation of the square root of a half
REST = 0.05 * WAVE


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """The astronaut as a points crop, (128, 128, 3) uint8 BGR."""
    points = np.array([[206, 108], [246, 108], [228, 130], [210, 148], [244, 148]], np.float64)
    matrix = CropGeometry("points", 128).matrix(np.zeros(4), points, (512, 512))
    return crop(np.ascontiguousarray(astronaut()[..., ::-1]), matrix, 128)


def stretched(face: np.ndarray, pixels: float, head: float = 0.0) -> np.ndarray:
    """The face shifted down by `head` pixels, and by `pixels` more below the mouth, tapering to the upper lip."""
    x, y = np.meshgrid(np.arange(128, dtype=np.float32), np.arange(128, dtype=np.float32))
    down = pixels * np.clip((y / 128 - 0.54) / 0.04, 0, 1)
    return cv2.remap(face, x, (y - down - head).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def test_the_opening_follows_a_planted_mouth(face):
    planted = np.array([0, 2, 4, 1, 0, 3, 5, 2, 0], float)  # pixels; the middle one is 0
    found = opening(np.stack([stretched(face, pixels) for pixels in planted])) * 128 / 100
    assert found[[0, 4, 8]] == pytest.approx(0, abs=0.05)
    assert found == pytest.approx(planted, abs=0.8)
    assert np.corrcoef(found, planted)[0, 1] > 0.98


def test_the_opening_does_not_see_a_moving_head(face):
    heads = [0, 1.5, 3, 1.5, 0, -1.5, -3]
    swaying = opening(np.stack([stretched(face, 0, head) for head in heads]))
    talking = opening(np.stack([stretched(face, pixels) for pixels in heads]))
    assert np.ptp(swaying) < 0.1 * np.ptp(talking)


def test_travel_by_hand():
    assert mean_speed(np.array([0.0, 1.0, -1.0, -1.0])) == 1.0


def test_the_envelope_is_the_level_at_each_frame():
    loud = np.full(2 * 640, 16384, np.int16)
    found = envelope(loud, 5)
    high, low = np.log(0.501), np.log(0.001)
    assert found == pytest.approx([high, (2 * high + low) / 3, (high + 2 * low) / 3, low, low])


def test_the_lag_of_a_planted_delay_is_found():
    curve = np.random.default_rng(0).normal(size=60)
    assert lagged_correlation(curve[2:], curve[:-2]) == (pytest.approx(1), 2)
    assert lagged_correlation(curve[:-3], curve[3:]) == (pytest.approx(1), -3)
    assert lagged_correlation(curve, -curve, reach=0) == (pytest.approx(-1), 0)
    assert lagged_correlation(curve[5:], curve[:-5])[0] < 0.6


def test_a_still_mouth_goes_with_nothing():
    curve = np.random.default_rng(0).normal(size=20)
    assert lagged_correlation(np.zeros(20), curve) == (0.0, 0)
    assert lagged_correlation(0.05 * curve, curve) == (0.0, 0)
    assert lagged_correlation(curve, np.zeros(20)) == (0.0, 0)


def test_a_mouth_is_at_rest_below_a_tenth_of_a_hundredth():
    assert at_rest(np.zeros(9))
    assert at_rest(5 + 0.99 * REST_STD * np.tile([1, -1], 9))
    assert not at_rest(1.01 * REST_STD * np.tile([1, -1], 9))


def test_articulation_is_the_ratio_of_the_spreads():
    assert articulation(0.3 * WAVE + 7, WAVE) == pytest.approx(0.3)
    assert articulation(-2 * WAVE, WAVE) == pytest.approx(2)
    assert articulation(np.zeros(100), WAVE) == 0
    assert articulation(WAVE, REST) is None


def test_a_mouth_moves_two_frames_around_a_step():
    step = np.where(np.arange(20) < 10, 0, 1.01 * MOTION_THRESHOLD)
    assert moving_share(step) == 4 / 20  # frames 8 to 11 have both sides within two frames
    assert moving_share(0.98 * step) == 0
    assert moving_share(np.arange(30) * 0.26 * MOTION_THRESHOLD) == 26 / 30  # two at each end see less
    assert moving_share(np.arange(30) * 0.24 * MOTION_THRESHOLD) == 0


def test_the_leak_is_the_share_by_the_real_ones():
    assert leak(0.2, 0.8) == pytest.approx(0.25)
    assert leak(0.5, 0.4) == pytest.approx(1.25)
    assert leak(0.0, 0.5) == 0
    assert leak(0.3, 0.0) is None


def test_the_response_is_what_the_sounds_do_not_share():
    assert response(WAVE, 2 * WAVE + 3) == pytest.approx(0)
    assert response(WAVE, -WAVE) == pytest.approx(2)
    assert response(WAVE, np.roll(WAVE, 5)) == pytest.approx(1)  # a quarter of the wave
    assert response(REST, np.zeros(100)) == 0
    assert response(WAVE, REST) == response(REST, WAVE) == 1


def test_two_stills_agree_as_far_as_their_openings_correlate():
    assert agreement(WAVE, WAVE / 3 - 1) == pytest.approx(1)
    mixed = WAVE + np.roll(WAVE, 5)  # two uncorrelated halves
    assert agreement(WAVE, mixed) == pytest.approx(np.sqrt(0.5))
    assert agreement(WAVE, REST) is None
    assert agreement(REST, WAVE) is None


def test_a_mouth_held_still_does_not_move_and_a_talking_one_does(face):
    """Camera and encoder noise is not motion; a mouth that opens by 3 pixels twice a second is."""
    rng = np.random.default_rng(0)
    beat = 1.5 - 1.5 * np.cos(np.arange(25) * 2 * np.pi / 12)
    still, talking = (
        opening(np.stack([noisy(stretched(face, pixels), rng) for pixels in size * beat])) for size in (0, 1)
    )
    assert moving_share(still) == 0
    assert at_rest(still)
    assert moving_share(talking) > 0.7


def noisy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(picture + rng.normal(0, 2, picture.shape)), 0, 255).astype(np.uint8)
