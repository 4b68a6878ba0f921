"""Augmentation: values computed by hand, ranges respected, and the identity changes nothing."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from preprocessing.dataset.augmentation import IDENTITY_IMAGE, IDENTITY_MEL, Augmentation, ImageTransform, MelTransform
from tests.material import photo

NONE = Augmentation.none()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(3, 96, 96, 3): a face and two enlarged parts of it."""
    parts = [photo(), photo()[30:110, 40:120], photo()[60:100, 50:90]]
    return np.stack([cv2.resize(part, (96, 96), interpolation=cv2.INTER_AREA) for part in parts])


def test_no_augmentation_changes_nothing(frames):
    rng = np.random.default_rng(0)
    mel = rng.uniform(-4, 4, (80, 20)).astype(np.float32)
    for _ in range(20):
        view, mel_transform = ImageTransform.draw(NONE, rng), MelTransform.draw(NONE, rng)
        assert replace(view, seed=0) == IDENTITY_IMAGE
        assert replace(mel_transform, seed=0) == IDENTITY_MEL
        assert np.array_equal(view.matrix(96), np.eye(3))
        assert np.array_equal(view.apply_photometric(frames), frames)
        assert np.array_equal(mel_transform.apply(mel), mel)


def test_draws_fill_their_ranges_and_do_not_leave_them():
    how = replace(
        NONE, shift=4, turn=8, zoom=(0.9, 1.1), gain=(0.7, 1.3), gamma=(0.5, 2), blur=1, sigma=(0.4, 1.2), jpeg=1,
        quality=(60, 95), noise=3, tint=1,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    views = [ImageTransform.draw(how, rng, scale=1.5) for _ in range(800)]
    # 4 pixels of 96 are 6 of 144.
    assert {v.shift[0] for v in views} == {v.shift[1] for v in views} == set(range(-6, 7))
    assert {v.quality for v in views} == set(range(60, 96))
    drawn = {"turn": (-8, 8), "zoom": (0.9, 1.1), "gamma": (0.5, 2), "blur": (0.4, 1.2), "noise": (0, 3)}
    for name, (low, high) in drawn.items():
        values = [getattr(v, name) for v in views]
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
    gains = np.array([v.gains for v in views])
    assert 0.7 <= gains.min() < 0.71
    assert 1.29 < gains.max() <= 1.3


def test_warps_fill_their_ranges_and_do_not_leave_them():
    how, rng = replace(NONE, stretch=0.3, shear=0.1, mel_warp=0.2), np.random.default_rng(0)
    views, hearings = ([kind.draw(how, rng) for _ in range(800)] for kind in (ImageTransform, MelTransform))
    drawn = [(v.stretch[0], 0.3) for v in views], [(v.stretch[1], 0.3) for v in views]
    for values in (*drawn, [(h.warp, 0.2) for h in hearings]):
        logs, most = np.log([value for value, _ in values]), values[0][1]
        assert -most <= logs.min() < -0.98 * most
        assert 0.98 * most < logs.max() <= most
        assert abs(logs.mean()) < 0.05 * most
    apart = [abs(np.log(v.stretch[0] / v.stretch[1])) for v in views]
    assert max(apart) > 0.5  # width and height are scaled independently
    shears = [v.shear for v in views]
    assert -0.1 <= min(shears) < -0.098 < 0.098 < max(shears) <= 0.1


def test_a_stretched_mel_by_hand():
    bands = np.arange(80, dtype=np.float32)
    mel = np.repeat((bands / 40 - 1)[:, None], 3, axis=1)  # band b has the level b / 40 - 1
    higher, lower = (np.rint((MelTransform(warp=warp).apply(mel)[:, 1] + 1) * 4000) / 100 for warp in (1.25, 0.5))
    assert higher[[0, 4, 10, 63, 64, 79]].tolist() == [
        0,
        5,
        12.5,
        78.75,
        79,
        79,
    ]  # beyond the last band, the last one is repeated
    assert lower[[0, 10, 11, 79]].tolist() == [0, 5, 5.5, 39.5]
    silent = mel.copy()
    silent[40:] = -4
    assert (MelTransform(warp=0.5, gain=1).apply(silent)[:80, 0] > -4).all()  # the silent half is no longer visible
    assert (MelTransform(warp=2.0, gain=1).apply(silent)[20:] == -4).all()
    assert not np.array_equal(mel, MelTransform(warp=1.01).apply(mel))


def test_shares_are_kept():
    how = replace(NONE, flip=0.25, grey=0.5, blur=0.75, jpeg=1)
    rng = np.random.default_rng(0)
    views = [ImageTransform.draw(how, rng) for _ in range(2000)]
    counts = np.mean([(v.flip, v.grey, v.blur > 0, v.quality > 0) for v in views], axis=0)
    assert counts == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.03)


def test_a_tint_says_how_far_the_colours_part():
    spreads = []
    for tint in (0.0, 0.3, 1.0):
        view = ImageTransform.draw(replace(NONE, gain=(0.5, 1.5), tint=tint), np.random.default_rng(3))
        spreads.append(max(view.gains) - min(view.gains))
    assert spreads[0] == pytest.approx(0, abs=1e-12)
    assert spreads[1] == pytest.approx(0.3 * spreads[2])
    assert spreads[2] > 0.1


def test_a_seed_gives_the_same_disguise():
    first, again, other = (np.random.default_rng(seed) for seed in (1, 1, 2))
    how = Augmentation()
    assert ImageTransform.draw(how, first) == ImageTransform.draw(how, again) != ImageTransform.draw(how, other)
    assert MelTransform.draw(how, first) == MelTransform.draw(how, again) != MelTransform.draw(how, other)


@pytest.mark.parametrize(
    ("view", "point", "expected"),
    [
        (ImageTransform(shift=(3, -2)), (10, 20), (13, 18)),
        (ImageTransform(flip=True), (10, 20), (85, 20)),
        (ImageTransform(flip=True, shift=(3, -2)), (10, 20), (88, 18)),  # the shift follows the flip
        (ImageTransform(zoom=2), (47.5, 47.5), (47.5, 47.5)),
        (ImageTransform(zoom=2), (57.5, 27.5), (67.5, 7.5)),
        (ImageTransform(turn=90), (95, 0), (0, 0)),  # counterclockwise: the upper right corner moves to the upper left
        (ImageTransform(turn=90, flip=True), (95, 0), (95, 0)),
        (ImageTransform(stretch=(2, 0.5)), (47.5, 47.5), (47.5, 47.5)),
        (ImageTransform(stretch=(2, 0.5)), (57.5, 27.5), (67.5, 37.5)),
        (ImageTransform(shear=0.2), (57.5, 57.5), (59.5, 57.5)),  # below the center, to the right
        (ImageTransform(shear=0.2), (57.5, 37.5), (55.5, 37.5)),
        (
            ImageTransform(stretch=(2, 1), shear=0.2, turn=90),
            (57.5, 57.5),
            (57.5, 25.5),
        ),  # (20 + 2, 10), rotated counterclockwise
    ],
)
def test_views_move_points_by_hand(view, point, expected):
    assert view.matrix(96) @ [*point, 1] == pytest.approx([*expected, 1], abs=1e-9)


def test_apart_is_a_little_elsewhere_and_else_alike():
    rng = np.random.default_rng(0)
    view = ImageTransform.draw(Augmentation(), rng)
    others = [view.jittered(1, rng) for _ in range(60)]
    moved = {(other.shift[0] - view.shift[0], other.shift[1] - view.shift[1]) for other in others}
    assert moved == {(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert {replace(other, shift=view.shift, seed=view.seed) for other in others} == {view}
    assert len({other.seed for other in others}) == 60


def test_colours_by_hand():
    image = np.full((1, 4, 4, 3), (10, 20, 200), np.uint8)
    assert ImageTransform(gains=(2, 0.5, 1.5)).apply_photometric(image)[0, 0, 0].tolist() == [20, 10, 255]
    assert ImageTransform(gamma=2).apply_photometric(image)[0, 0, 0].tolist() == [
        0,
        2,
        157,
    ]  # 255 (v / 255)^2: 0.39, 1.57, 156.86
    grey = round(0.114 * 10 + 0.587 * 20 + 0.299 * 200)
    assert ImageTransform(grey=True).apply_photometric(image)[0, 0, 0].tolist() == [grey] * 3
    tinted = ImageTransform(grey=True, gains=(0.5, 1, 1.2)).apply_photometric(image)[0, 0, 0].tolist()
    assert tinted == [round(0.9 * grey)] * 3  # a grayscale image has no tint


def test_a_blur_is_a_gaussians(frames):
    blurred = ImageTransform(blur=1.0).apply_photometric(frames)
    for frame, expected in zip(blurred, frames, strict=True):
        assert np.array_equal(frame, cv2.GaussianBlur(expected, (7, 7), 1.0))


def test_noise_differs_from_frame_to_frame_and_by_the_seed():
    grey = np.full((4, 96, 96, 3), 128, np.uint8)
    noisy = ImageTransform(noise=3, seed=5).apply_photometric(grey)
    error = noisy.astype(float) - 128
    assert error.std() == pytest.approx(np.sqrt(9 + 1 / 12), rel=0.02)  # plus the rounding error
    assert abs(error.mean()) < 0.05
    assert abs(np.corrcoef(error.reshape(4, -1))[~np.eye(4, dtype=bool)]).max() < 0.03
    assert np.array_equal(noisy, ImageTransform(noise=3, seed=5).apply_photometric(grey))
    assert not np.array_equal(noisy, ImageTransform(noise=3, seed=6).apply_photometric(grey))


def test_every_frame_is_compressed_alone_at_the_quality_asked_for(frames):
    for quality in (30, 90):
        for made, frame in zip(ImageTransform(quality=quality).apply_photometric(frames), frames, strict=True):
            data = cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
            assert np.array_equal(made, cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_a_mels_level_and_tilt_by_hand():
    mel = np.zeros((80, 6), np.float32)
    changed = MelTransform(gain=0.25, tilt=0.5).apply(mel)
    assert changed.dtype == np.float32
    assert changed[0] == pytest.approx([-0.25] * 6)
    assert changed[79] == pytest.approx([0.75] * 6)
    assert changed[40, 0] == pytest.approx(0.25 + 0.5 / 79)
    assert MelTransform(gain=9).apply(mel).max() == 4
    assert not mel.any()  # the input is unchanged


def test_masks_cover_what_they_say_with_the_mean():
    mel = np.random.default_rng(0).uniform(-3, 3, (80, 20)).astype(np.float32)
    changed = MelTransform(bands=((10, 4), (70, 10)), pauses=((0.0, 2), (1.0, 3))).apply(mel)
    masked = np.zeros((80, 20), bool)
    masked[10:14] = masked[70:80] = True
    masked[:, :2] = masked[:, 17:] = True
    assert changed[masked] == pytest.approx(np.full(masked.sum(), mel.mean()), abs=1e-6)
    assert np.array_equal(changed[~masked], mel[~masked])


def test_masks_are_anywhere_and_no_wider_than_asked():
    how = replace(NONE, bands=(2, 8), pauses=(1, 3))
    rng = np.random.default_rng(0)
    drawn = [MelTransform.draw(how, rng) for _ in range(6000)]
    assert all((len(mel_transform.bands), len(mel_transform.pauses)) == (2, 1) for mel_transform in drawn)
    bands = [band for mel_transform in drawn for band in mel_transform.bands]
    assert {width for _, width in bands} == set(range(9))
    assert {first for first, width in bands if width == 8} == set(range(73))  # up to the last position that fits
    assert {width for mel_transform in drawn for _, width in mel_transform.pauses} == set(range(4))


def test_digital_silence_stays_what_it_is():
    mel = np.random.default_rng(0).uniform(-3, 3, (80, 20)).astype(np.float32)
    mel[:, 5:9] = -4
    loud = MelTransform(gain=2, tilt=1, noise=1, bands=((0, 40),), pauses=((0.3, 9),)).apply(mel)
    assert (loud[:, 5:9] == -4).all()
    assert (loud[:, 9:] != mel[:, 9:]).mean() > 0.9


def test_noise_of_a_mel_follows_its_seed():
    mel = np.zeros((80, 60), np.float32)
    assert MelTransform(noise=0.15, seed=1).apply(mel).std() == pytest.approx(0.15, rel=0.03)
    assert np.array_equal(MelTransform(noise=0.15, seed=1).apply(mel), MelTransform(noise=0.15, seed=1).apply(mel))
    assert not np.array_equal(MelTransform(noise=0.15, seed=1).apply(mel), MelTransform(noise=0.15, seed=2).apply(mel))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"flip": 1.5}, "flip must be a share from 0 to 1, not 1.5"),
        ({"tint": -0.1}, "tint must be a share from 0 to 1"),
        ({"zoom": (1.1, 0.9)}, r"zoom must be an ascending range between 0.1 and 10, not \(1.1, 0.9\)"),
        ({"quality": (0, 90)}, "quality must be an ascending range between 1 and 100"),
        ({"shift": -1.0}, "shift must be 0 or more, not -1.0"),
        ({"stretch": 1.5}, "stretch must be from 0 to 1, not 1.5"),
        ({"mel_warp": -0.1}, "mel_warp must be from 0 to 1, not -0.1"),
        ({"bands": (2, -8)}, "bands must be 0 or more"),
    ],
)
def test_contradictions_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**option)
