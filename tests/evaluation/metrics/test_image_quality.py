"""Image quality metrics: hand-computed values, closed forms, and deliberately degraded faces."""

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from evaluation.metrics.image_quality import (
    HEAD,
    LIPS,
    MASK_TOP,
    MASKED,
    MOUTH,
    crop_box,
    flicker,
    l1_distance,
    lip_redness,
    psnr,
    seam_color,
    seam_gradient,
    sharpness,
    ssim,
    temporal_change,
)
from inference.generator.compositing import crop_mask
from tests.material import photo


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """A real face, six times with independent noise, (6, 128, 128, 3) uint8."""
    face = cv2.resize(photo()[16:124, 26:134], (128, 128), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0, 1, (6, *face.shape))
    return np.clip(np.rint(face + noise), 20, 235).astype(np.uint8)


def flat(level: int, count: int = 2) -> np.ndarray:
    return np.full((count, 128, 128, 3), level, np.uint8)


def blurred(pictures: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in pictures])


def set_in(pictures: np.ndarray, levels: float, mask: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pictures + levels * mask[..., None]), 0, 255).astype(np.uint8)


def mirrored(pictures: np.ndarray) -> np.ndarray:
    """The mouth square padded by half a window, which scikit-image excludes from its mean."""
    return np.pad(crop_box(pictures, MOUTH), ((0, 0), (5, 5), (5, 5), (0, 0)), mode="reflect")


def test_a_box_is_cut_out_of_all_pictures():
    pictures = np.arange(2 * 128 * 128).reshape(2, 128, 128)
    assert np.array_equal(crop_box(pictures, MOUTH), pictures[:, 42:101, 35:93])
    assert np.array_equal(crop_box(pictures, MASKED), pictures[:, 53:])


def test_nothing_above_the_masked_rows_is_generated():
    rows = np.nonzero(crop_mask("points", 128).any(axis=1))[0]
    assert rows[0] == round(MASK_TOP * 128)


def test_difference_and_psnr_by_hand():
    black, grey = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 51, np.uint8)
    assert l1_distance(grey, black) == pytest.approx(0.2)
    assert psnr(grey, black) == pytest.approx(20 * np.log10(5))
    assert psnr(grey, grey) == pytest.approx(20 * np.log10(510))


def test_ssim_of_flat_pictures_is_its_luminance_term():
    """(2 x y + c) / (x^2 + y^2 + c), c = (0.01 * 255)^2; contrast and structure are 1."""
    c = 2.55**2
    assert ssim(flat(100), flat(50)) == pytest.approx((2 * 5000 + c) / (10000 + 2500 + c), abs=1e-3)
    assert ssim(flat(100), flat(100)) == pytest.approx(1)


def test_ssim_is_scikit_images_on_the_mouth(real):
    made = blurred(real, 1.5)
    oracle = [
        structural_similarity(
            one, two, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        for one, two in zip(*(mirrored(pictures) for pictures in (made, real)), strict=True)
    ]
    assert ssim(made, real) == pytest.approx(np.mean(oracle), abs=1e-4)
    elsewhere = real.copy()
    elsewhere[:, :40] = 0
    assert ssim(elsewhere, real) == pytest.approx(1)


def test_ssim_does_not_depend_on_blocks(real):
    many, made = np.repeat(real, 7, axis=0), np.repeat(blurred(real, 1), 7, axis=0)
    assert ssim(made, many) == pytest.approx(ssim(made[::7], real), abs=1e-5)


def test_half_the_contrast_is_a_quarter_of_the_sharpness():
    stripes = flat(100)
    stripes[:, :, ::4] = 180
    half = flat(100)
    half[:, :, ::4] = 140
    assert sharpness(half, stripes) == pytest.approx(0.25)
    assert sharpness(stripes, stripes) == 1
    assert sharpness(flat(100), stripes) == 0
    assert sharpness(stripes, flat(100)) is None


def test_blur_takes_sharpness_and_noise_adds_it(real):
    found = [sharpness(blurred(real, sigma), real) for sigma in (0.5, 1, 2)]
    assert 1 > found[0] > found[1] > found[2] > 0
    rough = np.clip(real + np.random.default_rng(1).normal(0, 8, real.shape), 0, 255).astype(np.uint8)
    assert sharpness(rough, real) > 1.2


def lipped(reds: list[int]) -> np.ndarray:
    """Gray faces with lips that are redder by `reds`, in 8-bit a of L*a*b*."""
    lab = np.full((len(reds), 128, 128, 3), (150, 128, 128), np.uint8)
    for picture, red in zip(lab, reds, strict=True):
        picture[70:84, 48:80, 1] += red
    return np.stack([cv2.cvtColor(picture, cv2.COLOR_LAB2BGR) for picture in lab])


def test_half_as_red_lips_are_half_as_red():
    real = lipped([40] * 20)
    assert lip_redness(real, real) == 1
    assert lip_redness(lipped([20] * 20), real) == pytest.approx(0.5, abs=0.02)
    assert lip_redness(lipped([0] * 20), real) == pytest.approx(0, abs=0.02)


def test_lips_that_vanish_now_and_then_are_seen_and_a_single_frame_in_a_hundred_is_not():
    real = lipped([40] * 100)
    assert lip_redness(lipped([40] * 90 + [0] * 10), real) == pytest.approx(0, abs=0.02)
    assert lip_redness(lipped([40] * 99 + [0]), real) == pytest.approx(1, abs=0.02)
    assert lip_redness(lipped([40] * 90 + [0] * 10), lipped([40] * 90 + [20] * 10)) == pytest.approx(0, abs=0.04)


def test_a_real_mouth_that_is_painted_over_has_no_lips(real):
    over = real.copy()
    crop_box(over, (0.3, 0.48, 0.7, 0.76))[:] = np.median(
        crop_box(real, (0.3, 0.76, 0.7, 0.8)), axis=(1, 2), keepdims=True
    )
    assert lip_redness(over, real) < 0.2
    assert lip_redness(blurred(real, 2), real) > 0.7


def test_grey_faces_tell_nothing_of_lips():
    grey = np.random.default_rng(0).integers(90, 160, (4, 128, 128, 1), np.uint8).repeat(3, axis=3)
    assert lip_redness(grey, grey) is None


def test_change_is_that_of_its_box():
    pictures = np.zeros((3, 128, 128, 3), np.uint8)
    crop_box(pictures, LIPS)[1] = 6
    crop_box(pictures, HEAD)[2] = 2
    assert temporal_change(pictures, LIPS) == pytest.approx(6)
    assert temporal_change(pictures, HEAD) == pytest.approx(1)
    downwards = np.full((2, 128, 128, 3), 250, np.uint8)
    downwards[1] = 5
    assert temporal_change(downwards, LIPS) == 245


def test_flicker_is_what_is_beyond_the_real_one_where_nobody_speaks():
    real, made = (np.full((12, 128, 128, 3), 100, np.uint8) for _ in range(2))
    real[::2] += 1  # changes by 1 from frame to frame
    made[:8:2] += 4  # by 4 up to frame 8, whose change is 0
    made[8:] = np.random.default_rng(0).integers(0, 255, made[8:].shape)
    assert flicker(made, real, np.arange(12) < 7) == pytest.approx(3)
    assert flicker(real, made, np.arange(12) < 7) == pytest.approx(-3)
    assert flicker(real, real, np.ones(12, bool)) == 0


def test_flicker_needs_five_changes_between_quiet_neighbours():
    pictures = np.random.default_rng(0).integers(0, 255, (20, 128, 128, 3), np.uint8)
    assert flicker(pictures, pictures, np.arange(20) < 5) is None
    assert flicker(pictures, pictures, np.arange(20) < 6) == 0
    assert flicker(pictures, pictures, np.arange(20) % 2 == 0) is None


@pytest.mark.parametrize("levels", [-10, 12])
def test_a_mouth_of_another_brightness_has_a_seam_of_just_that(real, levels):
    assert seam_color(real, real) == 0
    assert seam_color(set_in(real, levels, crop_mask("points", 128)), real) == pytest.approx(abs(levels), abs=0.3)
    everywhere = set_in(real, levels, np.ones((128, 128)))
    assert seam_color(everywhere, real) < 0.1


def test_seams_that_are_brighter_here_and_darker_there_do_not_cancel_out(real):
    mask = crop_mask("points", 128) * np.where(np.arange(128) < 64, 1, -1)
    assert seam_color(set_in(real, 10, mask), real) == pytest.approx(10, abs=0.5)


def test_a_mouth_that_is_far_from_the_border_makes_no_seam(real):
    made = real.copy()
    made[:, 70:84, 52:76] = 0
    assert seam_color(made, real) == 0
    assert seam_gradient(made, real) == 1


def test_the_gradient_across_the_border_by_hand():
    """With the mask itself as the image, half the contrast gives half the gradient."""
    mask = crop_mask("points", 128)
    ramp, half = (np.rint(np.repeat(level * mask[None, ..., None], 3, axis=3)).astype(np.uint8) for level in (200, 100))
    assert seam_gradient(half, ramp) == pytest.approx(0.5, abs=0.01)
    assert seam_gradient(flat(9), ramp[[0, 0]]) == 0
    assert seam_gradient(ramp, flat(9, 1)) is None


def test_a_line_at_the_border_raises_its_gradient_and_blur_lowers_it(real):
    hard = (crop_mask("points", 128) > 0.5).astype(float)
    assert seam_gradient(set_in(real, -25, hard), real) > 1.1
    assert seam_gradient(blurred(real, 2), real) < 0.9


@pytest.mark.parametrize("size", [64, 96, 256])
def test_the_border_is_found_at_any_size(real, size):
    small = np.stack([cv2.resize(picture, (size, size)) for picture in real])
    made = set_in(small, -10, crop_mask("points", size))
    assert seam_color(made, small) == pytest.approx(10, abs=0.3)
