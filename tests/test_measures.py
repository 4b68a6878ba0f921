"""Figures of speaking faces: numbers worked out by hand, planted mouths, planted lags."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from material import write_numbered_clip
from skimage.data import astronaut
from torch import nn

from benchmarks.measures import (
    HEAD,
    LIPS,
    MASKED,
    MOUTH,
    Cost,
    bootstrap,
    cost,
    difference,
    envelope,
    lagged_correlation,
    look,
    motion,
    opening,
    part,
    psnr,
    ratio,
    sync,
    travel,
)
from preprocessing.clips import Clip
from preprocessing.crops import CropGeometry, crop
from preprocessing.windows import Region, face_window
from syncnet.data import MOUTH as SEEN


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """The astronaut as a points crop, (128, 128, 3) uint8 BGR."""
    points = np.array([[206, 108], [246, 108], [228, 130], [210, 148], [244, 148]], np.float64)
    matrix = CropGeometry("points", 128).matrix(np.zeros(4), points, (512, 512))
    return crop(np.ascontiguousarray(astronaut()[..., ::-1]), matrix, 128)


def stretched(face: np.ndarray, pixels: float, head: float = 0.0) -> np.ndarray:
    """The face `head` pixels lower, and all below the mouth by `pixels` more, less and less up to the upper lip."""
    x, y = np.meshgrid(np.arange(128, dtype=np.float32), np.arange(128, dtype=np.float32))
    down = pixels * np.clip((y / 128 - 0.54) / 0.04, 0, 1)
    return cv2.remap(face, x, (y - down - head).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def test_a_box_is_cut_out_of_all_pictures():
    pictures = np.arange(2 * 128 * 128).reshape(2, 128, 128)
    assert np.array_equal(part(pictures, MOUTH), pictures[:, 42:101, 35:93])
    assert np.array_equal(part(pictures, MASKED), pictures[:, 53:])


def test_difference_and_psnr_by_hand():
    black, grey = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 51, np.uint8)
    assert difference(grey, black) == pytest.approx(0.2)
    assert psnr(grey, black) == pytest.approx(20 * np.log10(5))
    assert psnr(grey, grey) == pytest.approx(20 * np.log10(510))


def test_motion_is_that_of_its_box():
    pictures = np.zeros((3, 128, 128, 3), np.uint8)
    part(pictures, LIPS)[1] = 6
    part(pictures, HEAD)[2] = 2
    assert motion(pictures, LIPS) == pytest.approx(6)
    assert motion(pictures, HEAD) == pytest.approx(1)


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
    assert travel(np.array([0.0, 1.0, -1.0, -1.0])) == 1.0


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


def test_the_judge_sees_of_a_crop_what_it_sees_of_a_clip(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    clip = Clip.open(write_numbered_clip(tmp_path / "a.safetensors", noise))
    whole = face_window(clip, Region(size=96), 0, 2)
    assert np.array_equal(look(whole, SEEN), face_window(clip, SEEN, 0, 2))


def test_the_sync_of_planted_embeddings():
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(50, 64)).astype(np.float32)
    audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    counted = np.ones(50, bool)
    assert sync(np.roll(audio, 2, axis=0), audio, counted).offset == 2  # the picture at i fits the sound at i - 2
    together = sync(audio, audio, counted)
    assert (together.offset, together.cosine) == (0, pytest.approx(1))
    assert together.confidence == pytest.approx(1, abs=0.1)
    half = np.where(np.arange(50)[:, None] < 25, audio, -audio)
    assert sync(half, audio, counted).cosine == pytest.approx(0, abs=1e-6)
    assert sync(half, audio, np.arange(50) < 25).cosine == pytest.approx(1)


def test_the_bootstrap_of_the_mean_is_as_wide_as_the_textbooks():
    values = np.random.default_rng(1).normal(5, 2, 100)
    low, high = bootstrap(values)
    error = values.std() / 10
    assert (low, high) == (pytest.approx(values.mean() - 1.96 * error, abs=0.05), pytest.approx(
        values.mean() + 1.96 * error, abs=0.05
    ))  # fmt: skip
    assert bootstrap(values) == (low, high)
    assert bootstrap(np.full(4, 3.0)) == (3, 3)


def test_a_ratio_keeps_its_pairs_together():
    pairs = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    assert ratio(pairs.mean(axis=0)) == 0.5
    assert bootstrap(pairs, ratio) == (0.5, 0.5)
    assert np.array_equal(ratio(np.array([[3.0, 2.0], [0.0, 0.0]])), [1.5, np.nan], equal_nan=True)


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(size=96)
        self.layer = nn.Conv2d(6, 3, 1)

    def forward(self, mel: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return self.layer(faces)


def test_the_cost_of_one_layer_by_hand():
    assert cost(OneLayer()) == Cost(21, pytest.approx(6 * 3 * 96 * 96 / 1e9), pytest.approx(42e-6))
