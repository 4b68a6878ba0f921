"""Training windows of the sync expert: what is drawn, from where, and that picture and sound belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from preprocessing.dataset.augmentation import Augmentation
from preprocessing.dataset.clips import Clip
from preprocessing.dataset.windows import CropRegion, WindowDataset, batches
from syncnet.data import ShardedDataset, mouth_windows, pair, sample, speech_share, window_mels
from tests.material import write_numbered_clip

FRAMES, MARGIN = 40, 8
NONE = Augmentation.none()


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> Clip:
    """A clip whose frame k has the value k everywhere and whose mel column c has the value c / 100."""
    path = tmp_path_factory.mktemp("clips") / "counted.safetensors"
    faces = np.broadcast_to(np.arange(FRAMES, dtype=np.uint8)[:, None, None, None], (FRAMES, 112, 112, 3))
    mel = np.tile(np.arange(129, dtype=np.float32) / 100, (80, 1))
    return Clip.open(write_numbered_clip(path, faces, margin=MARGIN, mel=mel))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Clip:
    """A clip with one still frame of smooth noise."""
    path = tmp_path_factory.mktemp("clips") / "noisy.safetensors"
    rng = np.random.default_rng(0)
    still = np.kron(rng.integers(40, 216, (14, 14, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    mel = np.repeat(rng.uniform(-3, 3, (80, 1)), 129, axis=1)
    return Clip.open(write_numbered_clip(path, np.repeat(still[None], FRAMES, axis=0), margin=MARGIN, mel=mel))


def test_windows_are_stacked_as_the_original_stacks_them(shared):
    with np.load(shared / "reference/golden/syncnet.npz") as golden:
        for frames, expected in zip(golden["frames_bgr"], golden["face"], strict=True):
            window = mouth_windows(frames, np.array([0]))
            assert window.shape == (1, 15, 96, 96)
            assert np.abs(window[0, :, 48:] - expected).max() < 1e-6  # its expert sees the lower half


def test_windows_by_hand():
    frames = (10 * np.arange(8)[:, None, None, None] + np.arange(3)).astype(np.uint8)  # pixel = 10 frame + channel
    windows = mouth_windows(np.broadcast_to(frames, (8, 2, 2, 3)), np.array([0, 3]))
    assert windows.shape == (2, 15, 2, 2)
    assert windows.dtype == np.float32
    first = [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42]
    assert (windows[0, :, 0, 0] * 255).tolist() == pytest.approx(first, abs=1e-4)
    assert (windows[1, :, 1, 1] * 255).tolist() == pytest.approx([30 + v for v in first], abs=1e-4)


def test_the_windows_sounds_are_the_originals(shared):
    with (
        np.load(shared / "reference/golden/audio.npz") as audio,
        np.load(shared / "reference/golden/syncnet.npz") as sync,
    ):
        mel = audio["mel_reflect"].astype(np.float32)
        assert np.array_equal(window_mels(mel, sync["start_frame"]), sync["mel"])


@pytest.mark.parametrize("seed", range(6))
def test_picture_and_sound_of_a_window_belong_together(counted, seed):
    mel, mouths = sample(counted, np.random.default_rng(seed), windows=6, step=3, augmentation=NONE)
    assert mel.shape == (6, 1, 80, 16)
    assert mouths.shape == (6, 15, 64, 64)
    frames = np.rint(mouths[:, ::3, 0, 0] * 255).astype(int)
    first = frames[0, 0]
    assert frames.tolist() == [[first + 3 * w + k for k in range(5)] for w in range(6)]
    columns = np.rint(mel[:, 0, 0, 0] * 100).astype(int)
    assert columns.tolist() == [int(80 * (first + 3 * w) / 25) for w in range(6)]


def test_another_regions_size_is_shown(counted):
    mel, mouths = sample(counted, np.random.default_rng(0), 3, region=CropRegion(0.25, 0.5, 0.5, 48), augmentation=NONE)
    assert (mel.shape, mouths.shape) == ((3, 1, 80, 16), (3, 15, 48, 48))


@pytest.mark.parametrize("nearest", [5, 12])
def test_half_of_the_pairs_belong_together_and_the_others_keep_their_distance(counted, nearest):
    gaps, labels = [], []
    for seed in range(400):
        mel, mouths, together = pair(counted, np.random.default_rng(seed), nearest, NONE)
        assert (mel.shape, mouths.shape) == ((1, 80, 16), (15, 64, 64))
        assert mel.dtype == mouths.dtype == together.dtype == np.float32
        frames = np.rint(mouths[::3, 0, 0] * 255).astype(int)
        assert np.diff(frames).tolist() == [1, 1, 1, 1]
        start = {int(80 * frame / 25): frame for frame in range(FRAMES)}[round(float(mel[0, 0, 0]) * 100)]
        gaps.append(start - frames[0])
        labels.append(together)
    assert np.mean(labels) == pytest.approx(0.5, abs=0.06)
    assert all((gap == 0) == (label == 1) for gap, label in zip(gaps, labels, strict=True))
    apart = {gap for gap in gaps if gap}
    assert min(map(abs, apart)) == nearest
    assert min(apart) < -20
    assert max(apart) > 20  # before and after, up to the clip's ends


def test_a_share_of_a_stream_is_a_part_of_each_step(counted):
    def draw(clip, rng):
        return rng.random()

    whole = list(batches(WindowDataset([counted], np.ones(1), draw, 5), 6, range(1, 4)))
    for rank in range(3):
        share = batches(ShardedDataset([counted], np.ones(1), draw, 5, size=2, rank=rank, processes=3), 2, range(1, 4))
        assert all(torch.equal(ours, all_[2 * rank : 2 * rank + 2]) for ours, all_ in zip(share, whole, strict=True))


def test_the_mouth_is_where_it_is_said_to_be(noisy):
    _, mouths = sample(noisy, np.random.default_rng(0), windows=2, augmentation=NONE)
    expected = noisy.faces(0, 1)[0, MARGIN + 28 : MARGIN + 92, MARGIN + 16 : MARGIN + 80]
    assert np.array_equal(np.rint(mouths[0, :3].transpose(1, 2, 0) * 255), expected)


def test_a_larger_clip_shows_the_same_mouth(tmp_path):
    rng = np.random.default_rng(0)
    large = np.kron(rng.integers(40, 216, (14, 14, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    shown = []
    for name, still, margin in (("small", large[::2, ::2], MARGIN), ("large", large, 2 * MARGIN)):
        path = write_numbered_clip(tmp_path / f"{name}.safetensors", np.repeat(still[None], 8, axis=0), margin=margin)
        shown.append(sample(Clip.open(path), np.random.default_rng(0), windows=2, augmentation=NONE)[1])
    assert np.abs(shown[0] - shown[1]).mean() < 0.015
    assert np.abs(shown[0][..., 1:] - shown[1][..., :-1]).mean() > 0.025


def test_any_place_of_a_clip_is_drawn_and_nothing_beyond_it(counted):
    span = 5 * 2 + 5
    firsts = set()
    for seed in range(300):
        _, mouths = sample(counted, np.random.default_rng(seed), windows=6, augmentation=NONE)
        firsts.add(round(float(mouths[0, 0, 0, 0]) * 255))
    assert firsts == set(range(FRAMES - span + 1))


def test_a_seed_gives_the_same_sample(noisy):
    once, again, other = (sample(noisy, np.random.default_rng(seed), windows=4) for seed in (1, 1, 2))
    for a, b, c in zip(once, again, other, strict=True):
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)


def test_augmented_samples_keep_shape_and_range(noisy):
    for seed in range(40):
        mel, mouths = sample(noisy, np.random.default_rng(seed), windows=3)
        assert mel.shape == (3, 1, 80, 16)
        assert mouths.shape == (3, 15, 64, 64)
        assert mel.dtype == mouths.dtype == np.float32
        assert -4 <= mel.min() < mel.max() <= 4
        assert 0 <= mouths.min() < mouths.max() <= 1


def test_a_run_of_windows_is_disguised_alike(noisy):
    """Otherwise the augmentation would distinguish the windows."""
    for seed in range(12):
        mel, mouths = sample(noisy, np.random.default_rng(seed), windows=3)
        frames = mouths.reshape(15, 3, 64, 64)
        assert np.abs(frames - frames.mean(axis=0)).mean() < 0.016  # noise of up to 4 grey levels
        assert np.abs(mel - mel.mean(axis=0)).mean() < 0.15  # noise of 0.15


def test_windows_are_drawn_where_there_is_speech(tmp_path):
    frames = 100
    faces = np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 112, 112, 3))
    flags = np.zeros(1 + frames * 640 // 200, bool)
    flags[256:] = True  # the last 20 of 100 frames
    clip = Clip.open(write_numbered_clip(tmp_path / "late.safetensors", faces, flags=flags, margin=MARGIN))
    assert speech_share(flags, 80, 85) == 1
    assert speech_share(flags, 70, 90) == pytest.approx(0.5)

    def first(min_speech_share: float, seed: int) -> float:
        return (
            255
            * sample(clip, np.random.default_rng(seed), 2, 2, NONE, min_speech_share=min_speech_share)[1][0, 0].mean()
        )

    firsts = {
        min_speech_share: np.array([first(min_speech_share, seed) for seed in range(60)])
        for min_speech_share in (0.0, 0.5)
    }
    assert np.mean(firsts[0.0] > 75) < 0.35  # 18 of 94 places
    assert 0.5 < np.mean(firsts[0.5] > 75) < 1  # 1 - (76 / 94) ** 6 of them: after six places any will do
