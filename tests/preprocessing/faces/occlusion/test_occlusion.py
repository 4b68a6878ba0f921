"""What covers a face is found, and stays as it was when the mouth under it moves."""

import cv2
import numpy as np
import pytest

from preprocessing.faces.landmarks.predictor import load_landmarks
from preprocessing.faces.landmarks.training.crops import Crops
from preprocessing.faces.landmarks.views import View
from preprocessing.faces.mesh import LIPS_OUTER, HeadPose
from preprocessing.faces.occlusion.mask import (
    CELLS,
    MIN_CELLS,
    SURE,
    OcclusionFinder,
    OcclusionMask,
    covered_cells,
    occlusion_view,
)
from preprocessing.faces.occlusion.training.occluders import OccluderMaker
from preprocessing.media.color_conversion import yuv_to_bgr
from preprocessing.media.planar_frame import planar_from_bgr
from tests.preprocessing.faces.landmarks.portrait import BOX, portrait


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    network = load_landmarks()
    return network(portrait(), network(portrait(), BOX)).points.astype(np.float64)


@pytest.fixture(scope="module")
def pose(points) -> HeadPose:
    return HeadPose.of(points)


@pytest.fixture(scope="module")
def finder() -> OcclusionFinder:
    return OcclusionFinder.load()


def covered_portrait() -> tuple[np.ndarray, np.ndarray]:
    """The portrait with a microphone before the mouth, and the microphone's mask."""
    image, mask = portrait(), np.zeros((512, 512), np.uint8)
    cv2.ellipse(mask, ((222.0, 152.0), (30.0, 36.0), 0.0), 255, -1)
    cv2.line(mask, (222, 165), (232, 260), 255, 14)
    noise = np.random.default_rng(0).normal(45, 12, (512, 512, 1))
    texture = (noise * [1, 1, 1.1]).clip(0, 255).astype(np.uint8)
    image[mask > 0] = texture[mask > 0]
    return image, mask > 0


def test_nothing_covers_the_portrait(finder, points, pose):
    assert finder(portrait(), points, pose) is None


def test_blue_lips_do_not_count_as_covered(finder, points, pose):
    """The network calls them so; the mouth would stay as it was while the skin around it moves."""
    lips = cv2.fillPoly(np.zeros((512, 512), np.uint8), [np.round(points[LIPS_OUTER, :2]).astype(np.int32)], 1) > 0
    image = portrait().copy()
    image[lips] = (image[lips].mean(axis=1, keepdims=True) / image[lips].mean() * (170, 60, 30)).clip(0, 255)
    (probability,) = finder.network(occlusion_view(pose).crop(image, 112)[None])
    assert (probability[0] > SURE[1]).sum() > MIN_CELLS
    assert finder(image, points, pose) is None


def test_a_microphone_before_the_mouth_is_found_where_it_is(finder, points, pose):
    image, truth = covered_portrait()
    mask = finder(image, points, pose)
    assert mask is not None
    seen = occlusion_view(pose).matrix(8)
    inside = np.zeros((512, 512), bool)
    left, top = (np.linalg.inv(seen[:, :2]) @ (np.array([0, 0]) - seen[:, 2])).astype(int)
    right, bottom = (np.linalg.inv(seen[:, :2]) @ (np.array([7, 7]) - seen[:, 2])).astype(int)
    inside[top:bottom, left:right] = True
    found, truth = (mask.over(0, 0, 512, 512) > 0.5) & inside, truth & inside
    assert (found & truth).sum() / truth.sum() > 0.8
    assert (found & truth).sum() / found.sum() > 0.6  # it has grown by a cell


def test_a_mask_lies_over_the_frame_as_its_view_does():
    view = View(np.array([300.0, 200.0]), 112.0, 0.4)
    cells = np.zeros((CELLS, CELLS), np.float32)
    cells[10:13, 40:43] = 1
    x, y = np.round(view.to_frame(np.array([41.0, 11.0, 0.0]), CELLS)[:2]).astype(int)
    mask = OcclusionMask(view, cells).over(x - 20, y - 10, 60, 50)
    assert mask.shape == (50, 60)
    assert mask[10, 20] > 0.9
    assert mask.sum() == pytest.approx(9 * 4, rel=0.1)  # nine cells of two pixels square
    assert OcclusionMask(view, cells).over(0, 0, 50, 50).max() == 0


FACE = np.array([[14.0, 20], [42, 20], [42, 44], [14, 44]])  # of the lower face, in cells
LIPS = np.array([[20.0, 29], [36, 29], [36, 35], [20, 35]])


def spot(left: int, top: int, width: int, height: int, level: float = 1.0) -> np.ndarray:
    probability = np.full((CELLS, CELLS), 0.2, np.float32)
    probability[top : top + height, left : left + width] = level
    return probability


def test_a_spot_before_the_face_covers_it_and_grows():
    mask = covered_cells(spot(20, 22, 10, 10), FACE, LIPS)
    assert mask is not None
    assert mask[21, 25] == mask[22, 20] == 1
    assert mask[19, 25] == mask[30, 45] == 0


@pytest.mark.parametrize(
    "probability",
    [spot(20, 22, 10, 10, 0.44), spot(20, 22, 4, 4), spot(20, 46, 16, 8), spot(10, 43, 40, 13), spot(20, 28, 17, 9)],
    ids=["doubtful", "tiny", "below the chin", "below and hardly before it", "the lips alone"],
)
def test_what_covers_nothing(probability):
    assert covered_cells(probability, FACE, LIPS) is None


def test_what_reaches_over_the_face_from_outside_is_kept_whole_and_nothing_else():
    probability = np.maximum(spot(20, 30, 8, 26), spot(46, 5, 8, 8))
    mask = covered_cells(probability, FACE, LIPS)
    assert mask is not None
    assert mask[54, 24] == 1
    assert mask[:15].max() == 0


@pytest.mark.parametrize("planar", [False, True])
def test_what_covers_stays_and_the_rest_is_rendered(planar):
    rng = np.random.default_rng(1)
    before, after = (rng.integers(0, 256, (120, 160, 3), dtype=np.uint8) for _ in range(2))
    mask = OcclusionMask(View(np.array([80.0, 60.0]), 56.0, 0.3), np.pad(np.ones((20, 20), np.float32), 18))
    covered = mask.over(0, 0, 160, 120)
    assert 350 < covered.sum() < 450
    if planar:
        frames = [planar_from_bgr(image, yuv_to_bgr("bt709", False)) for image in (after, before)]
        mask.restore(*frames)
        result, old, new = frames[0].luma, frames[1].luma, planar_from_bgr(after, frames[0].to_bgr).luma
    else:
        result = after.copy()
        mask.restore(result, before)
        old, new = before, after
    np.testing.assert_array_equal(result[covered == 1], old[covered == 1])
    np.testing.assert_array_equal(result[covered == 0], new[covered == 0])
    edge = (covered > 0.45) & (covered < 0.55)
    middle = (old[edge].astype(float) + new[edge]) / 2
    assert np.abs(result[edge] - middle).max() <= 0.05 * 255 + 1


def test_a_mask_beyond_the_frame_restores_what_is_inside():
    before, result = np.full((60, 50, 3), 200, np.uint8), np.zeros((60, 50, 3), np.uint8)
    OcclusionMask(View(np.array([0.0, 58.0]), 56.0), np.ones((CELLS, CELLS), np.float32)).restore(result, before)
    assert result[59, 0].tolist() == [200] * 3
    assert result[59, 40].tolist() == [0] * 3
    away = np.zeros_like(before)
    OcclusionMask(View(np.array([500.0, 500.0]), 56.0), np.ones((CELLS, CELLS), np.float32)).restore(away, before)
    assert not away.any()


def test_every_kind_of_occluder_covers_something_and_is_drawn_again_the_same():
    images = np.stack([cv2.resize(portrait()[40:280, 100:340], (240, 240))])
    points = np.random.default_rng(0).uniform(60, 180, (1, 206, 3)).astype(np.float32)
    maker = OccluderMaker(Crops(images, points, np.array(["a"]), images[:, :120, :120]), 64)
    for kind in (maker.thing, maker.board, maker.hand, maker.microphone, maker.subtitle, maker.strands):
        drawn = [kind(0, np.random.default_rng(seed)) for seed in range(5)]
        assert np.mean([occluder.mask.any() for occluder in drawn]) >= 0.6
        again = kind(0, np.random.default_rng(3))
        np.testing.assert_array_equal(again.mask, drawn[3].mask)
        np.testing.assert_array_equal(again.texture, drawn[3].texture)
        pasted = drawn[3].paste(images[0, :64, :64], 0.5)
        assert pasted.shape == (64, 64, 3)
        free = cv2.dilate(drawn[3].mask, np.ones((7, 7))) == 0
        if not drawn[3].shadow:
            np.testing.assert_array_equal(pasted[free], images[0, :64, :64][free])
