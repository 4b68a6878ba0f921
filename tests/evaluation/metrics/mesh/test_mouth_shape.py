"""Mouth figures against values worked out by hand."""

import cv2
import numpy as np
import pytest

from evaluation.metrics.mesh import mouth_shape
from evaluation.metrics.mesh.mouth_shape import MouthLook
from preprocessing.faces.mesh import (
    LEFT_CORNER,
    LIPS_INNER,
    LIPS_OUTER,
    LOWER_LIP,
    RIGHT_CORNER,
    UPPER_LIP,
    canonical_face,
)

EYES = 42  # units between the eyes of the canonical face
SKIN, LIP = (140, 160, 200), (90, 90, 190)  # BGR


def faces(opening, width=None, scale=2.0, shift=(30, 20)):
    """(N, 206, 2) canonical faces in pixels, with these openings and widths in distances of the eyes."""
    points = np.repeat(canonical_face()[None, :, :2], len(opening), 0)
    points[:, LOWER_LIP] = points[:, UPPER_LIP]
    points[:, LOWER_LIP, 1] += EYES * np.asarray(opening)
    if width is not None:
        points[:, LEFT_CORNER] = points[:, RIGHT_CORNER]
        points[:, LEFT_CORNER, 0] += EYES * np.asarray(width)
    return points * scale + shift


def look(opening, width=None, redness=10.0, sharpness=5.0):
    count = len(opening)
    same = np.ones(count)
    return MouthLook(faces(opening, width), same > 0, same * redness, same * sharpness, same)


def sway(count=60, period=9.0):
    return 0.2 + 0.1 * np.sin(2 * np.pi * np.arange(count) / period)


def test_curves_are_in_distances_of_the_eyes_at_any_size_and_place():
    wanted = np.array([0.0, 0.1, 0.25])
    for scale, shift in ((1.0, (0, 0)), (3.5, (-40, 7))):
        points = faces(wanted, wanted + 1, scale, shift)
        mouth = MouthLook(points, np.ones(3, bool), *np.ones((3, 3)))
        np.testing.assert_allclose(mouth_shape.eye_distance(points), EYES * scale, rtol=1e-2)
        np.testing.assert_allclose(mouth.opening, wanted, rtol=1e-2, atol=1e-9)
        np.testing.assert_allclose(mouth.width, wanted + 1, rtol=1e-2)


def test_gaps_are_bridged_in_time():
    points = np.zeros((5, 2, 2))
    points[1], points[3] = 2, 6
    filled = mouth_shape.fill_gaps(points, np.array([False, True, False, True, False]))
    assert filled[:, 0, 0].tolist() == [2, 2, 4, 6, 6]
    with pytest.raises(ValueError, match="no frame"):
        mouth_shape.fill_gaps(points, np.zeros(5, bool))


@pytest.mark.parametrize("delay", [-1, 0, 1])
def test_a_delay_of_one_frame_is_forgiven(delay):
    assert mouth_shape.lagged_r(np.roll(sway(), delay), sway()) == pytest.approx(1)


def test_longer_delays_and_unrelated_curves_are_not():
    assert mouth_shape.lagged_r(np.roll(sway(), 4), sway()) < 0
    rng = np.random.default_rng(0)
    assert abs(mouth_shape.lagged_r(rng.normal(size=500), rng.normal(size=500))) < 0.15


def test_a_mouth_at_rest_follows_nobody_and_nobody_follows_one():
    still = np.full(60, 0.1)
    assert mouth_shape.lagged_r(still, sway()) == 0
    assert mouth_shape.lagged_r(sway(), still) is None
    assert mouth_shape.amplitude(sway(), still) is None


def test_amplitude_is_a_ratio_of_deviations():
    assert mouth_shape.amplitude(2 * sway(), sway()) == pytest.approx(2)


def test_closures_count_within_one_frame_and_in_speech_only():
    driver = np.full(40, 0.3)
    driver[[5, 12, 20, 30, 38]] = 0.01
    made = np.full(40, 0.3)
    made[[6, 12, 23, 38]] = 0.0  # one frame late, on time, three frames late; missing at 30
    speech = np.ones(40, bool)
    assert mouth_shape.closures_kept(made, driver, speech) == pytest.approx(3 / 5)
    speech[35:] = False
    assert mouth_shape.closures_kept(made, driver, speech) == pytest.approx(2 / 4)
    assert mouth_shape.closures_kept(made, driver, np.arange(40) < 15) is None  # two frames


def test_lips_are_closed_below_a_share_of_their_own_range():
    opening = np.array([0.0, 0.02, 0.07, *[0.4] * 97])  # 15 % of 0.4 is 0.06
    assert mouth_shape.closed(opening)[:4].tolist() == [True, True, False, False]
    assert mouth_shape.closed(np.full(10, 0.01)).all()  # never open


def picture(points, lip=LIP):
    """A face of skin with lips, for (206, 2) points."""
    image = np.full((300, 320, 3), SKIN, np.uint8)
    cv2.fillPoly(image, [np.round(points[LIPS_OUTER]).astype(np.int32)], lip)
    cv2.fillPoly(image, [np.round(points[LIPS_INNER]).astype(np.int32)], (20, 20, 20))
    return image


def level_a(bgr):
    return float(cv2.cvtColor(np.uint8([[bgr]]), cv2.COLOR_BGR2LAB)[0, 0, 1])


def opened():
    """(206, 2) pixels of a face with parted lips."""
    points = canonical_face()[:, :2].copy()
    lower = [LIPS_INNER[k] for k in range(1, 10)]
    points[lower, 1] += 4
    points[[LIPS_OUTER[k] for k in range(1, 10)], 1] += 4
    return points * 2 + (30, 20)


def test_redness_is_that_of_the_lips_over_the_skin():
    points = opened()
    box, inside = mouth_shape.mouth_box(picture(points), points)
    assert mouth_shape.lip_redness(box, inside) == pytest.approx(level_a(LIP) - level_a(SKIN), abs=2)
    pale, inside = mouth_shape.mouth_box(picture(points, SKIN), points)
    assert abs(mouth_shape.lip_redness(pale, inside)) < 2
    assert np.isnan(mouth_shape.lip_redness(box, inside + 1000))


def test_the_mouth_box_is_upright_and_of_one_size():
    for scale in (1.0, 2.0):
        points = canonical_face()[:, :2] * scale
        box, inside = mouth_shape.mouth_box(np.zeros((300, 300, 3), np.uint8), points)
        assert box.shape == (mouth_shape.BOX_SIDE, mouth_shape.BOX_SIDE, 3)
        assert mouth_shape.eye_distance(inside) == pytest.approx(mouth_shape.BOX_EYES)
        np.testing.assert_allclose(inside[LIPS_OUTER].mean(0), mouth_shape.BOX_SIDE / 2)


def test_sharpness_is_the_variance_of_the_laplacian():
    rng = np.random.default_rng(0)
    noise = rng.integers(100, 156, (96, 96, 1), np.uint8).repeat(3, 2)
    weak = (128 + (noise.astype(float) - 128) / 2).astype(np.uint8)
    assert mouth_shape.sharpness(noise) / mouth_shape.sharpness(weak) == pytest.approx(4, rel=0.05)
    assert mouth_shape.sharpness(np.full((96, 96, 3), 80, np.uint8)) == 0


def test_only_changes_outside_the_lower_face_count():
    points = opened()
    real = picture(points)
    made = real.copy()
    x, y = points[LIPS_OUTER].mean(0).astype(int)
    made[y - 10 : y + 10, x - 10 : x + 10] = 0
    assert mouth_shape.outside_change(made, real, points) == 0
    made[:, :20] += 4
    outside = mouth_shape.outside_change(made, real, points)
    assert 0 < outside < 4
    assert mouth_shape.outside_change(real + 3, real, points) == pytest.approx(3)


def test_a_video_compared_with_itself_is_perfect():
    opening = np.where(np.arange(60) % 12 == 0, 0.0, sway())
    one = look(opening, 1 + sway(period=13))
    figures = dict(mouth_shape.compare_motion(one, one, np.ones(60, bool)))
    assert figures == pytest.approx({"mesh_opening_r": 1, "mesh_width_r": 1, "closures_kept": 1, "amplitude": 1})
    assert dict(mouth_shape.compare_look(one, one)) == dict.fromkeys(
        ("mesh_redness", "mesh_sharpness", "mesh_flicker", "mesh_found"), 1
    )


def test_videos_of_different_length_are_compared_as_far_as_both_go():
    long, short = look(sway(60), sway(60)), look(sway(40), sway(40))
    for made, driver in ((long, short), (short, long)):
        figures = dict(mouth_shape.compare_motion(made, driver, np.zeros(10, bool)))
        assert figures["mesh_opening_r"] == pytest.approx(1)
        assert "closures_kept" not in figures


@pytest.mark.parametrize("offset", [-5, 3])
def test_a_recording_out_of_sync_is_compared_in_sync(offset):
    rng = np.random.default_rng(0)
    sound = np.convolve(rng.random(90), np.ones(5) / 5, "valid")
    made, speech = look(sound, 1 + sound), np.ones(100, bool)
    picture = np.roll(sound, offset)  # at i it matches the sound at i - offset
    driver = look(picture, 1 + picture)
    figures = dict(mouth_shape.compare_motion(made, driver, speech, offset))
    assert figures["mesh_opening_r"] == figures["mesh_width_r"] == pytest.approx(1)
    assert dict(mouth_shape.compare_motion(made, driver, speech))["mesh_opening_r"] < 0.7
    assert not dict(mouth_shape.compare_motion(made, driver, speech, -84))


def test_the_palest_frames_decide_redness():
    own, made = look(sway(100), redness=8.0), look(sway(100), redness=8.0)
    made.redness[:10] = 2.0
    assert dict(mouth_shape.compare_look(made, own))["mesh_redness"] == pytest.approx(0.25)
    assert "mesh_redness" not in dict(mouth_shape.compare_look(made, look(sway(100), redness=0.2)))


def test_motion_in_silence_is_relative_to_motion_in_speech():
    silent, speaking = look(0.2 + 0.1 * (sway() - 0.2)), look(sway())
    assert mouth_shape.motion_in_silence(silent, speaking) == pytest.approx(0.1)
    assert mouth_shape.motion_in_silence(silent, look(np.full(60, 0.1))) is None


def test_frames_of_speech_are_found_by_level():
    rng = np.random.default_rng(0)
    samples = np.zeros(2 * 16000, np.int16)
    samples[16000:] = rng.normal(0, 4000, 16000)
    speech = mouth_shape.speech_frames(samples, 60)
    assert not speech[:22].any()
    assert speech[27:49].all()
    assert not speech[52:].any()
    assert not mouth_shape.speech_frames(np.zeros(0, np.int16), 5).any()


def test_flicker_counts_what_flashes_and_not_what_brightens():
    points = faces(np.array([0.2]), np.array([0.5]))[0]
    low, high = points.min(0), points.max(0)
    points = 40 + (points - low) * 160 / (high - low).max()
    flat = np.full((240, 240, 3), 100, np.uint8)
    brighter, flash = flat + 10, flat + 20
    assert mouth_shape.flicker(flat, brighter, flash, points) == 0
    assert mouth_shape.flicker(flat, flash, flat, points) == 40
    assert mouth_shape.flicker(flat, flat, flash, points) == 20
