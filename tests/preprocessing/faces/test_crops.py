"""Face crops: the original's box, similarity alignment on eyes and nose, and out-of-frame regions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from preprocessing.faces.crops import TEMPLATE, CropGeometry, crop, padded_box, similarity

POINTS = np.array([[206, 108], [246, 108], [228, 130], [210, 148], [244, 148]], np.float64)  # of the astronaut's face
BOX = np.array([180, 65, 270, 175], np.float32)


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """(512, 512, 3) BGR."""
    return np.ascontiguousarray(astronaut()[..., ::-1])


def turned(degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """The (2, 3) similarity: rotation, scale, then translation."""
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def move(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def points_for(matrix: np.ndarray) -> np.ndarray:
    """Five points whose crop of 96 pixels has the given matrix."""
    inverse = cv2.invertAffineTransform(matrix)
    return np.vstack([move(inverse, TEMPLATE * 96 - 0.5), np.zeros((2, 2))])


def spot(x: float, y: float, sigma: float, size: int) -> np.ndarray:
    """A bright round spot in a black (size, size, 3) frame."""
    v, u = np.indices((size, size))
    light = 255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
    return np.repeat(light.round().astype(np.uint8)[..., None], 3, axis=2)


def test_a_box_is_cut_as_the_original_cuts_it(shared):
    with np.load(shared / "reference/golden/generator.npz") as golden:
        cuts, expected = golden["crops_bgr"], golden["faces_bgr"]
    geometry = CropGeometry("box")
    for cut, wanted in zip(cuts, expected, strict=True):
        frame = np.random.default_rng(0).integers(0, 256, (260, 300, 3), dtype=np.uint8)
        frame[30 : 30 + 145, 40 : 40 + 112] = cut
        matrix = geometry.matrix(np.array([40.4, 30.9, 152.2, 165.0]), POINTS, (300, 260))  # 10 are added below
        assert np.abs(crop(frame, matrix, 96).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("box", "pads", "expected"),
    [
        ((10.9, 20.2, 50.7, 60.9), (0, 0, 0, 0), (10, 20, 50, 60)),
        ((10.9, 20.2, 50.7, 60.9), (1, 2, 3, 4), (7, 19, 54, 62)),  # top, bottom, left, right
        ((10, 20, 50, 60), (-1, -2, -3, -4), (13, 21, 46, 58)),
        ((-5.5, -7, 90, 75), (0, 10, 0, 0), (0, 0, 90, 80)),
        ((2, 3, 99, 79), (9, 9, 9, 9), (0, 0, 100, 80)),
        ((150, 90, 190, 120), (0, 0, 0, 0), (99, 79, 100, 80)),  # beyond the frame: its last pixel
        ((-60, -50, -20, -10), (0, 0, 0, 0), (0, 0, 1, 1)),
        ((30, 30, 30, 30), (0, 0, 0, 0), (30, 30, 31, 31)),
        ((30, 30, 50, 50), (0, -40, -40, 0), (70, 30, 71, 31)),  # pads that eat up the box
    ],
)
def test_padded_box_by_hand(box, pads, expected):
    assert padded_box(np.array(box, np.float32), pads, (100, 80)) == expected


def test_any_box_is_inside_the_frame_and_not_empty():
    rng = np.random.default_rng(3)
    for _ in range(2000):
        box, pads = rng.uniform(-300, 300, 4), tuple(rng.integers(-50, 50, 4).tolist())
        x1, y1, x2, y2 = padded_box(box, pads, (100, 80))
        assert 0 <= x1 < x2 <= 100
        assert 0 <= y1 < y2 <= 80


def test_the_box_reaches_from_edge_to_edge_of_the_square():
    matrix = CropGeometry("box", 96, (0, 0, 0, 0)).matrix(np.array([20, 30, 68, 222]), POINTS, (400, 400))
    corners = np.array([[19.5, 29.5], [67.5, 221.5]])  # the outer edges of the first and the last pixel
    assert move(matrix, corners) == pytest.approx(np.array([[-0.5, -0.5], [95.5, 95.5]]))


@pytest.mark.parametrize(("degrees", "scale", "shift"), [(0, 1, (0, 0)), (30, 2.5, (7, -9)), (-170, 0.2, (300, 40))])
def test_a_planted_similarity_is_found(degrees, scale, shift):
    source = np.array([[206.0, 108], [246, 110], [228, 131], [200, 160]])
    planted = turned(degrees, scale, shift)
    assert similarity(source, move(planted, source)) == pytest.approx(planted, abs=1e-9)


def test_noise_is_fitted_by_least_squares_without_mirroring():
    rng = np.random.default_rng(1)
    source = rng.normal(size=(8, 2))
    target = move(turned(40, 1.5, (1, 2)), source) + rng.normal(0, 0.2, (8, 2))
    x, y = source.T
    zero, one = np.zeros(8), np.ones(8)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, u, v = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
    assert similarity(source, target) == pytest.approx(np.array([[a, -b, u], [b, a, v]]), abs=1e-9)
    mirrored = similarity(source, source * [-1, 1])
    assert np.linalg.det(mirrored[:, :2]) >= 0


def test_eyes_and_nose_land_on_the_template():
    geometry = CropGeometry("points", 96)
    for planted in (turned(25, 0.4, (-60, -110)), turned(-80, 2, (30, 5))):
        points = points_for(planted)
        matrix = geometry.matrix(BOX, points, (512, 512))
        assert matrix == pytest.approx(planted, abs=1e-9)
        # The pixel at (28.5, 11.5) has the point (29, 12) of the square, whose corner is (0, 0), at its centre.
        expected = np.array([[28.5, 11.5], [66.5, 11.5], [47.5, 34.5]])
        assert move(matrix, points[:3]) == pytest.approx(expected, abs=1e-6)


def test_twice_the_size_is_twice_the_scale():
    small = CropGeometry("points", 96).matrix(BOX, POINTS, (512, 512))
    large = CropGeometry("points", 192).matrix(BOX, POINTS, (512, 512))
    assert large[:, :2] == pytest.approx(2 * small[:, :2])
    assert large[:, 2] + 0.5 == pytest.approx(2 * (small[:, 2] + 0.5))


def test_mouth_chin_and_box_do_not_move_the_crop(face):
    geometry, rng = CropGeometry("points"), np.random.default_rng(5)
    matrix = geometry.matrix(BOX, POINTS, (512, 512))
    for _ in range(20):
        points = POINTS + np.vstack([np.zeros((3, 2)), rng.normal(0, 20, (2, 2))])
        moved = geometry.matrix(BOX + rng.normal(0, 20, 4), points, (512, 512))
        assert np.array_equal(moved, matrix)
    shifted = geometry.matrix(BOX, POINTS + np.array([[0, 0], [0, 0], [0, 2], [0, 0], [0, 0]]), (512, 512))
    assert not np.array_equal(shifted, matrix)


def test_a_crop_goes_back_to_where_it_came_from(face):
    smooth = cv2.GaussianBlur(face, (0, 0), 3)
    matrix = CropGeometry("points", 192).matrix(BOX, points_for(turned(20, 0.8, (-100, -90))), (512, 512))
    square = crop(smooth, matrix, 192)
    back = cv2.warpAffine(square, matrix, (512, 512), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = cv2.warpAffine(np.ones((192, 192), np.uint8), matrix, (512, 512), flags=cv2.WARP_INVERSE_MAP)
    inside = cv2.erode(inside, np.ones((5, 5), np.uint8)) > 0
    assert inside.sum() > 10000
    difference = np.abs(back.astype(int) - smooth)[inside]
    assert difference.mean() < 0.7
    assert difference.max() < 12


def test_the_identity_changes_nothing(face):
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    assert np.array_equal(crop(face, identity, 96), face[:96, :96])
    shifted = np.array([[1.0, 0, -37], [0, 1, -120]])
    assert np.array_equal(crop(face, shifted, 96), face[120:216, 37:133])


def test_a_quarter_turn_by_hand(face):
    # (x, y) goes to (95 - y, x): the frame's upper left corner becomes the square's upper right one.
    matrix = np.array([[0.0, -1, 95], [1, 0, 0]])
    assert np.array_equal(crop(face, matrix, 96), np.rot90(face[:96, :96], -1))


@pytest.mark.parametrize("scale", [1 / 12, 1 / 5.3, 1 / 2.1])
def test_a_large_face_does_not_alias(scale):
    y, x = np.indices((1400, 1400))
    frame = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    matrix = turned(7, scale, (3.3, -40.1))
    square = crop(frame, matrix, 96).astype(float)
    assert square.mean() == pytest.approx(127.5, abs=1)
    assert square.std() < 3
    assert cv2.warpAffine(frame, matrix, (96, 96)).std() > 25  # what happens without averaging


@pytest.mark.parametrize("scale", [0.09, 0.19, 0.31, 0.47, 0.8, 1.7])
@pytest.mark.parametrize("degrees", [0, 12, -100])
def test_averaging_down_does_not_move_the_face(scale, degrees):
    frame = spot(403.3, 371.8, 4 / scale, 900)
    place = np.array([51.3, 44.6])
    matrix = turned(degrees, scale, (0, 0))
    matrix[:, 2] = place - matrix[:, :2] @ [403.3, 371.8]
    square = crop(frame, matrix, 96)[..., 0].astype(float)
    v, u = np.indices((96, 96))
    centre = np.array([(u * square).sum(), (v * square).sum()]) / square.sum()
    assert centre == pytest.approx(place, abs=0.05)
    assert square.max() > 235


def test_outside_the_frame_its_edge_is_repeated():
    frame = np.zeros((200, 200, 3), np.uint8)
    frame[:, :] = 10, 20, 30
    frame[:, :8] = 200, 100, 50
    for scale in (1.03, 0.4):
        # The face's left third lies outside: its pixels have the colour of the frame's first columns.
        square = crop(frame, turned(0, scale, (32, -11 * scale)), 96)
        assert (square[:60, :32] == (200, 100, 50)).all()
        assert (square[:60, 45:60] == (10, 20, 30)).all()


@pytest.mark.parametrize("shift", [(460, 0), (512, 0), (-30, 470), (600, 600), (-300, 40)])
@pytest.mark.parametrize("degrees", [0, 3])
def test_a_face_beyond_the_frame_is_cut_by_the_same_map(face, shift, degrees):
    matrix = turned(degrees, 1, (-shift[0], -shift[1]))
    wide = cv2.copyMakeBorder(face, 400, 400, 400, 400, cv2.BORDER_REPLICATE)
    there = matrix.copy()
    there[:, 2] -= matrix[:, :2] @ [400, 400]
    expected = cv2.warpAffine(wide, there, (96, 96))
    assert np.abs(crop(face, matrix, 96).astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize("points", [np.full((5, 2), 100.0), POINTS * 200, POINTS - 5000, POINTS * 1e-4 + 50])
def test_absurd_points_give_a_picture_all_the_same(face, points):
    matrix = CropGeometry("points").matrix(BOX, points, (512, 512))
    square = crop(face, matrix, 96)
    assert square.shape == (96, 96, 3)
    assert square.dtype == np.uint8


def test_an_unknown_geometry_is_refused():
    with pytest.raises(ValueError, match="'box' or 'points', not 'mesh'"):
        CropGeometry("mesh")
