"""Masks, color matching and blending, on the astronaut portrait and on flat images."""

import cv2
import numpy as np
import pytest
import skimage.data

from inference.generator.compositing import BLENDS, ColorMatcher, composite, crop_mask

SIDE = 96
NATIVE = 160
NATIVE_MATRIX = np.array([[1.0, 0.0, -150.0], [0.0, 1.0, -40.0]])  # the astronaut's face at its own resolution
SOFT_BLENDS = [blend for blend in BLENDS if blend != "none"]


def similarity(scale: float, degrees: float, center: tuple[float, float], side: int = SIDE) -> np.ndarray:
    """Frame -> crop, with `center` of the frame at the middle of the crop."""
    angle = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([linear, (side - 1) / 2 - linear @ center])


def crop_coordinates(matrix: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    u, v = np.moveaxis(np.stack([x, y], axis=-1) @ matrix[:, :2].T + matrix[:, 2], -1, 0)
    return u, v


def distance_to_the_edge(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How far each frame pixel lies inside the crop's quadrilateral, in crop pixels; negative outside."""
    u, v = crop_coordinates(matrix, shape)
    return np.minimum(np.minimum(u, SIDE - 1 - u), np.minimum(v, SIDE - 1 - v)) + 0.5


def reached_by(mask: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Frame pixels within one crop pixel of the mask's non-zero part."""
    near = cv2.dilate((mask > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    u, v = (np.rint(c).astype(int) for c in crop_coordinates(matrix, shape))
    inside = (u >= 0) & (u < mask.shape[1]) & (v >= 0) & (v < mask.shape[0])
    return inside & (near[v.clip(0, mask.shape[0] - 1), u.clip(0, mask.shape[1] - 1)] > 0)


ROTATED = similarity(0.6, 25.0, (225.0, 120.0))
X, Y = 96 / 140, 96 / 190  # the box of columns 155..294 and rows 40..229, stretched to a square
ANISOTROPIC = np.array([[X, 0.0, (0.5 - 155) * X - 0.5], [0.0, Y, (0.5 - 40) * Y - 0.5]])
MATRICES = [pytest.param(NATIVE_MATRIX, id="native"), pytest.param(ROTATED, id="rotated")]
MATRICES.append(pytest.param(ANISOTROPIC, id="anisotropic"))


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.astronaut()[..., ::-1])


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)


# --- crop_mask


@pytest.mark.parametrize("size", [48, 96, 384])
@pytest.mark.parametrize(("kind", "first_row"), [("points", 40), ("box", 48)])
def test_mask_is_zero_on_the_border_and_above_the_generated_rows(kind, first_row, size):
    for feather in (0.02, 0.1, 0.25):
        mask = crop_mask(kind, size, feather)
        assert mask.dtype == np.float32
        assert mask.shape == (size, size)
        assert mask.min() == 0.0
        assert 0.99 < mask.max() <= 1.0
        assert not mask[: first_row * size // 96].any()
        assert not any(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        np.testing.assert_allclose(mask, mask[:, ::-1], atol=1e-6)


def test_mask_covers_open_lips_and_the_chin_but_not_eyes_and_nose():
    points, box = crop_mask("points", SIDE), crop_mask("box", SIDE)
    assert points[47:70, 30:66].min() > 0.99  # the lips fully open, 36 wide
    assert box[58:80, 28:68].min() > 0.99
    assert points[86, 44:52].min() > 0.9
    assert box[86, 44:52].min() > 0.9
    assert points[12, 29] == points[12, 67] == points[35, 48] == 0.0


def test_mask_values_by_hand():
    mask = crop_mask("points", SIDE, feather=0.1)  # edges of 9.6 pixels, 4.8 above
    assert mask[40, 47] == pytest.approx(0.5 - 0.5 * np.cos(np.pi * 0.5 / 4.8), abs=1e-4)  # 0.0265
    assert mask[90, 47] == pytest.approx(0.5 - 0.5 * np.cos(np.pi * 5.0 / 9.6), abs=0.01)  # 5 pixels inside the jaw


def test_mask_has_no_step():
    mask = crop_mask("points", 384)  # a raised cosine over 19.2 rows climbs at most pi / 2 / 19.2 = 0.082 a row
    assert max(np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max()) < 0.09


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("oval", 96), "points, box"), (("box", 8), "at least 16"), (("box", 96, 0.5), "0.25")],
)
def test_mask_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        crop_mask(*arguments)


# --- composite: position, and unchanged pixels


@pytest.mark.parametrize("blend", BLENDS)
def test_a_native_crop_of_the_frame_itself_changes_nothing(frame, blend):
    own = frame[40 : 40 + NATIVE, 150 : 150 + NATIVE].astype(np.float32)
    result = composite(frame, own, NATIVE_MATRIX, crop_mask("points", NATIVE), blend)
    assert result.dtype == np.uint8
    assert result is not frame
    assert cv2.absdiff(result, frame).max() <= 1


@pytest.mark.parametrize("blend", ["feather", "multiband"])
@pytest.mark.parametrize(("scale", "degrees"), [(0.6, 25.0), (1.7, -8.0)])
def test_a_turned_and_scaled_crop_of_a_smooth_frame_changes_nothing(frame, scale, degrees, blend):
    matrix = similarity(scale, degrees, (225.0, 120.0), NATIVE)
    frame = cv2.GaussianBlur(frame, (0, 0), 12)  # OpenCV's cubic is off by up to 5 % of the slope per pixel
    own = cv2.warpAffine(frame.astype(np.float32), matrix, (NATIVE, NATIVE), flags=cv2.INTER_CUBIC)
    assert cv2.absdiff(composite(frame, own, matrix, crop_mask("points", NATIVE), blend), frame).max() <= 1


@pytest.mark.parametrize("blend", SOFT_BLENDS)
@pytest.mark.parametrize("matrix", MATRICES)
def test_outside_the_mask_the_frame_is_identical(frame, noise, matrix, blend):
    before = frame.copy()
    mask = crop_mask("points", SIDE)
    result = composite(frame, noise, matrix, mask, blend)
    reached = reached_by(mask, matrix, frame.shape)
    np.testing.assert_array_equal(frame, before)
    np.testing.assert_array_equal(result[~reached], frame[~reached])
    assert (result[reached] != frame[reached]).any(axis=-1).mean() > 0.8


@pytest.mark.parametrize("matrix", MATRICES)
def test_none_fills_the_whole_quadrilateral_and_nothing_else(frame, matrix):
    green = np.full((SIDE, SIDE, 3), (0, 255, 0), np.float32)
    result = composite(frame, green, matrix, crop_mask("points", SIDE), "none")
    margin = distance_to_the_edge(matrix, frame.shape)
    assert (result[margin > 0.05] == (0, 255, 0)).all()
    np.testing.assert_array_equal(result[margin < -0.05], frame[margin < -0.05])


def test_none_is_the_hard_paste_of_a_resized_box(frame, noise):
    generated = cv2.GaussianBlur(noise, (0, 0), 1.5)
    pasted = frame.copy()
    resized = cv2.resize(generated, (140, 190), interpolation=cv2.INTER_CUBIC)
    pasted[40:230, 155:295] = np.rint(resized).clip(0, 255)
    result = composite(frame, generated, ANISOTROPIC, crop_mask("box", SIDE), "none")
    assert cv2.absdiff(result, pasted).max() <= 1


@pytest.mark.parametrize("side", [96, 384])
@pytest.mark.parametrize("linear", [[[0.5, 0.2], [-0.2, 0.5]], [[0.69, 0.0], [0.0, 0.51]]])
def test_a_spot_lands_where_the_inverse_map_says(linear, side):
    frame = np.zeros((300, 400, 3), np.uint8)
    linear = np.multiply(linear, side / 96)
    matrix = np.column_stack([linear, side / 2 - linear @ (180, 130)])
    y, x = np.mgrid[:side, :side]
    spot = 200 * np.exp(-((x - 0.55 * side) ** 2 + (y - 0.6 * side) ** 2) / (2 * (0.04 * side) ** 2))
    result = composite(frame, np.dstack([spot] * 3).astype(np.float32), matrix, crop_mask("points", side))
    weight = result[..., 0].astype(float)
    center = [(weight * axis).sum() / weight.sum() for axis in np.mgrid[:300, :400][::-1]]
    np.testing.assert_allclose(matrix[:, :2] @ center + matrix[:, 2], [0.55 * side, 0.6 * side], atol=0.001 * side)


def test_a_crop_finer_than_the_frame_is_averaged_and_not_sampled():
    stripes = np.zeros((384, 384, 3), np.float32)
    stripes[:, ::2] = 255.0  # a quarter-size copy of such stripes is even gray
    matrix = np.array([[4.0, 0.0, -100.0], [0.0, 4.0, -100.0]])
    result = composite(np.full((200, 200, 3), 128, np.uint8), stripes, matrix, crop_mask("points", 384))
    assert np.abs(result.astype(int) - 128).max() <= 2


# --- composite: at the frame's border


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("center", [(0.0, 256.0), (511.0, 256.0), (256.0, 10.0), (256.0, 500.0), (2.0, 500.0)])
def test_a_face_half_outside_the_frame_is_composited_as_far_as_it_shows(frame, noise, blend, center):
    matrix = similarity(0.6, 10.0, center)
    mask = crop_mask("points", SIDE)
    result = composite(frame, noise, matrix, mask, blend)
    reached = reached_by(mask, matrix, frame.shape)
    if blend == "none":
        reached = distance_to_the_edge(matrix, frame.shape) > -0.05
    assert reached.any()
    np.testing.assert_array_equal(result[~reached], frame[~reached])
    assert (result[reached] != frame[reached]).any(axis=-1).mean() > 0.7


@pytest.mark.parametrize("blend", ["feather", "none"])  # the others depend on all visible pixels
def test_the_visible_part_is_the_same_as_in_a_larger_frame(frame, noise, blend):
    generated, mask = cv2.GaussianBlur(noise, (0, 0), 3), crop_mask("points", SIDE)
    whole = composite(frame, generated, ROTATED, mask, blend)
    moved = ROTATED.copy()
    moved[:, 2] += ROTATED[:, :2] @ (230, 100)
    part = composite(frame[100:, 230:], generated, moved, mask, blend)
    difference = cv2.absdiff(part, whole[100:, 230:]).max(axis=-1)
    assert (difference > 1).sum() <= (3 if blend == "none" else 0)  # single pixels on the square's very edge


@pytest.mark.parametrize("blend", BLENDS)
def test_slivers_and_crops_beyond_the_frame_are_harmless(frame, noise, blend):
    mask = np.ones((SIDE, SIDE), np.float32)
    for left in range(-SIDE - 3, -SIDE + 4):  # from just outside to a few columns of overlap
        matrix = np.array([[1.0, 0.0, -left], [0.0, 1.0, -200.0]])
        result = composite(frame, noise, matrix, mask, blend)
        overlap = max(left + SIDE, 0)
        np.testing.assert_array_equal(result[:, overlap + 1 :], frame[:, overlap + 1 :])
        assert (result[200:296, :overlap] != frame[200:296, :overlap]).any() == (overlap > 0)
    far = np.array([[1.0, 0.0, -1e5], [0.0, 1.0, 1e5]])
    np.testing.assert_array_equal(composite(frame, noise, far, mask, blend), frame)


def test_poisson_falls_back_to_feather_at_the_border_and_on_small_faces(frame, noise):
    mask = crop_mask("points", SIDE)
    for matrix in (similarity(0.6, 0.0, (20.0, 250.0)), similarity(8.0, 0.0, (225.0, 120.0))):
        feather = composite(frame, noise, matrix, mask, "feather")
        np.testing.assert_array_equal(composite(frame, noise, matrix, mask, "poisson"), feather)
        assert (feather != frame).any()


# --- composite: values


@pytest.mark.parametrize(("value", "expected"), [(100.4, 100), (100.6, 101), (-5.0, 0), (300.0, 255)])
def test_values_are_rounded_and_saturated(value, expected):
    frame = np.full((NATIVE, NATIVE, 3), 50, np.uint8)
    generated = np.full((NATIVE, NATIVE, 3), value, np.float32)
    assert (composite(frame, generated, np.eye(2, 3), crop_mask("points", NATIVE))[100, 80] == expected).all()


def test_feather_is_the_mean_weighted_by_the_mask():
    frame = np.full((SIDE, SIDE, 3), 100, np.uint8)
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[20:-20, 20:-20] = 0.25
    result = composite(frame, np.full((SIDE, SIDE, 3), 111, np.float32), np.eye(2, 3), mask)
    assert (result[20:-20, 20:-20] == 103).all()  # 100 + 11 / 4 = 102.75; truncation would give 102
    assert (result[:20] == 100).all()


@pytest.mark.parametrize("blend", BLENDS)
def test_a_patch_of_another_brightness_shows_no_seam(blend):
    frame = np.full((260, 260, 3), 120, np.uint8)
    generated = np.full((192, 192, 3), 135, np.float32)
    matrix = np.array([[1.0, 0.0, -30.0], [0.0, 1.0, -30.0]])
    result = composite(frame, generated, matrix, crop_mask("points", 192), blend).astype(int)
    step = max(np.abs(np.diff(result, axis=axis)).max() for axis in (0, 1))
    # feather: 15 levels * pi / 2 / 9.6 rows = 2.5 levels a row at most, plus rounding
    assert step == 15 if blend == "none" else step <= 3
    assert result[30 + 120, 30 + 96, 0] == pytest.approx(120 if blend == "poisson" else 135, abs=1)


def test_multiband_mixes_low_frequencies_wider_than_detail():
    frame = np.full((260, 260, 3), 120, np.uint8)
    matrix = np.array([[1.0, 0.0, -30.0], [0.0, 1.0, -30.0]])
    mask = np.zeros((192, 192), np.float32)
    mask[40:150, 40:150] = 1.0  # without a soft edge
    flat = np.full((192, 192, 3), 160, np.float32)
    row = composite(frame, flat, matrix, mask, "multiband")[125, 70:180, 0].astype(int)
    assert row[0] < 150  # brightness is blended at the edge ...
    assert row[len(row) // 2] > 153  # ... and kept in the middle
    flat[:, ::2] += 20.0
    flat[:, 1::2] -= 20.0
    row = composite(frame, flat, matrix, mask, "multiband")[125, 70:180, 0].astype(int)
    assert np.abs(np.diff(row))[2:-2].min() > 30  # detail is kept up to the edge


def test_composite_refuses(frame, noise):
    mask = crop_mask("points", SIDE)
    with pytest.raises(ValueError, match="feather, multiband, poisson, none"):
        composite(frame, noise, ROTATED, mask, "alpha")
    with pytest.raises(ValueError, match="must match"):
        composite(frame, noise, ROTATED, crop_mask("points", 48))
    for matrix in (np.zeros((2, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match="is singular"):
            composite(frame, noise, matrix, mask)


# --- ColorMatcher


@pytest.fixture
def face(frame) -> np.ndarray:
    return cv2.resize(frame[40:200, 150:310], (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


@pytest.fixture
def mask() -> np.ndarray:
    return crop_mask("points", SIDE)


def two_tone(low: float, high: float) -> np.ndarray:
    """Left half `low`, right half `high`: the symmetric ring has mean (low + high) / 2, deviation (high - low) / 2."""
    image = np.full((SIDE, SIDE, 3), low, np.float32)
    image[:, SIDE // 2 :] = high
    return image


def test_a_constant_shift_is_removed(face, mask):
    shift = np.array([12.0, -7.0, 3.5], np.float32)
    np.testing.assert_allclose(ColorMatcher(mask).match(face + shift, face), face, atol=1e-3)


def test_gain_and_offset_by_hand(mask):
    # deviations 20 and 23 with a prior of 2: gain 25 / 22; means 120 and 113
    matched = ColorMatcher(mask).match(two_tone(100, 140), two_tone(90, 136))
    np.testing.assert_allclose(matched, two_tone(113 - 20 * 25 / 22, 113 + 20 * 25 / 22), atol=1e-3)


def test_gain_and_shift_are_limited(mask):
    matched = ColorMatcher(mask).match(two_tone(110, 130), two_tone(0, 255))  # requires 129.5 / 12 and +7.5
    np.testing.assert_allclose(matched, two_tone(127.5 - 12.5, 127.5 + 12.5), atol=1e-3)
    matched = ColorMatcher(mask).match(two_tone(110, 130), two_tone(60, 80))  # requires -50
    np.testing.assert_allclose(matched, two_tone(90, 110), atol=1e-3)


def test_a_flat_ring_gets_hardly_any_gain(mask):
    pattern = np.random.default_rng(1).standard_normal((SIDE, SIDE, 3)).astype(np.float32)
    generated, original = 120 + 0.2 * pattern, 120 + 0.6 * pattern  # averaged over 2 x 2: 2.3 / 2.1 not 3
    matched = ColorMatcher(mask).match(generated, original)
    assert matched.std() / generated.std() == pytest.approx(1.1, abs=0.02)


def test_what_moved_on_the_ring_does_not_count(face, mask):
    generated = face + 10
    generated[84:, 30:66] = 0.0  # the images differ under the chin
    matched = ColorMatcher(mask).match(generated, face)
    assert np.abs(matched - face)[45:80, 30:66].max() < 1.5


def test_what_lies_outside_the_ring_does_not_count(face, mask):
    generated = face + 10
    generated[:34] = 0.0
    generated[mask > 0.99] = 255.0
    matched = ColorMatcher(mask, momentum=0.0).match(generated, face)
    expected = ColorMatcher(mask, momentum=0.0).match(face + 10, face)
    edge = (mask > 0.05) & (mask < 0.8)
    np.testing.assert_allclose(matched[edge], expected[edge], atol=2.0)


def test_the_match_is_steady_under_noise(face, mask):
    def wobble(momentum: float) -> float:
        rng, matcher, means = np.random.default_rng(2), ColorMatcher(mask, momentum), []
        for _ in range(60):
            noisy = face + 10 + rng.normal(0, 8, face.shape).astype(np.float32)
            means.append((matcher.match(noisy, face) - noisy).mean())
        return float(np.std(means))

    assert wobble(0.9) < 0.1  # levels
    assert wobble(0.9) < 0.5 * wobble(0.0)


def test_a_jump_is_followed_slowly_and_at_once_after_a_reset(face, mask):
    matcher = ColorMatcher(mask, momentum=0.9)
    for _ in range(20):
        matcher.match(face, face)
    jumped = matcher.match(face + 10, face) - (face + 10)
    np.testing.assert_allclose(jumped, -1.0, atol=1e-3)  # a tenth of the way
    matcher.reset()
    np.testing.assert_allclose(matcher.match(face + 10, face), face, atol=1e-3)


def test_matcher_refuses_a_momentum_of_one(mask):
    with pytest.raises(ValueError, match="below 1"):
        ColorMatcher(mask, momentum=1.0)
