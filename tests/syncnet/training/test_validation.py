"""Validation: metrics by hand, with a perfect expert, an uninformative one, and real ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.dataset.clips import Clip
from syncnet.model import SmallSyncNet
from syncnet.offset import cosine_distances, sync_score
from syncnet.scoring.clip_scoring import ClipSyncResult, score_clip
from syncnet.sync_expert import SyncExpert
from syncnet.training.validation import Validation, balanced_accuracy, best_threshold, validate
from tests.material import write_numbered_clip


class Counter(nn.Module):
    """Embeds a frame of gray level k, or audio whose first column is k / 10, as unit vector k."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def embed_faces(self, faces: Tensor) -> Tensor:
        return F.one_hot((faces[:, 0, 0, 0] * 255).round().long() % 128, 128).float()

    def embed_mel(self, mel: Tensor) -> Tensor:
        return F.one_hot((mel[:, 0, 0, 0] * 10).round().long() % 128, 128).float()


class Ignorant(Counter):
    """Embeds everything as the same vector."""

    def embed_faces(self, faces: Tensor) -> Tensor:
        return torch.ones(len(faces), 1)

    embed_mel = embed_faces


def numbered(path: Path, frames: int, late: int | np.ndarray = 0, silent: int = 0, speaker: str = "a") -> Clip:
    """A clip of frames 0, 1, 2, ... whose audio is `late` frames late (one value, or one per frame); its first
    `silent` frames have no speech."""
    faces = np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 112, 112, 3))
    frame = np.ceil(np.arange(1 + frames * 640 // 200) / 3.2).astype(int)  # window i begins in column floor(3.2 i)
    late = np.broadcast_to(late, frames)[np.minimum(frame, frames - 1)]
    mel = np.tile((frame - late) / 10, (80, 1)).astype(np.float32)
    return Clip.open(write_numbered_clip(path, faces, mel=mel, flags=frame >= silent, speaker=speaker))


def judgement(
    distances: np.ndarray, counted: np.ndarray | None = None, frames: int = 0, name: str = "a"
) -> ClipSyncResult:
    counted = np.ones(len(distances), bool) if counted is None else counted
    score = sync_score(distances, counted)
    return ClipSyncResult(name, "someone", frames or len(distances) + 4, distances, counted, score)


def of_offset(offset: int, frames: int) -> ClipSyncResult:
    """The result of a perfect expert."""
    sounds = np.eye(200, dtype=np.float32)
    windows = frames - 4
    return judgement(cosine_distances(sounds[50 : 50 + windows], sounds[50 + offset : 50 + offset + windows]))


@pytest.mark.parametrize("late", [0, 1, 4, -7])
def test_an_expert_that_counts_finds_the_offset(tmp_path, late):
    said = score_clip(SyncExpert(Counter()), numbered(tmp_path / "clip.safetensors", 40, late, speaker="anna"))
    assert (said.clip, said.speaker, said.frames, said.windows) == ("clip", "anna", 40, 36)
    assert said.score.offset == -late  # the picture at i fits the sound at i + late
    assert said.score.distance == pytest.approx(0, abs=1e-6)
    assert said.score.confidence == pytest.approx(1)
    assert said.curve.shape == (31,)
    assert said.in_sync.tolist() == [float(late == 0)] * 36
    # The expert is sure of one sound a window: the own one when nothing is late, else one of those apart, which is 3
    # to 15 frames away. What lies beyond either end of the clip is no sound.
    assert said.off_sync.shape == (36, 26)
    assert np.isnan(said.off_sync).sum() == 2 * sum(36 - max(0, 36 - k) for k in range(3, 16))
    assert np.nansum(said.off_sync) == (36 - abs(late) if abs(late) >= 3 else 0)


def test_figures_of_an_expert_that_knows(tmp_path):
    clips = [numbered(tmp_path / f"{frames}.safetensors", frames) for frames in (40, 80)]
    found = validate(SyncExpert(Counter()), clips)
    values = found.values()
    assert values.pop("threshold") == pytest.approx(1)
    names = {"accuracy", "accuracy_heard", "pairwise", "offset_within_1", "offset_within_1_long"}
    assert values == dict.fromkeys(names, 1.0)
    assert found.curve.tolist() == [1.0] * 15 + [0.0] + [1.0] * 15
    assert [clip.frames for clip in found.clips] == [40, 80]


def test_figures_of_an_expert_that_knows_nothing(tmp_path):
    values = validate(SyncExpert(Ignorant()), [numbered(tmp_path / "clip.safetensors", 30)]).values()
    assert values["accuracy"] == values["accuracy_heard"] == values["pairwise"] == 0.5


def test_silent_windows_do_not_count_for_the_offset(tmp_path):
    # In 40 frames of silence the room's noise seems to come 6 frames early; then speech comes 2 frames late.
    late = np.where(np.arange(60) < 40, -6, 2)
    said = score_clip(SyncExpert(Counter()), numbered(tmp_path / "clip.safetensors", 60, late, silent=42))
    assert said.score.offset == -2
    assert said.score.windows == said.windows_with_speech.sum()
    assert not said.windows_with_speech[:38].any()
    assert said.windows_with_speech[-10:].all()
    assert sync_score(said.distances).offset == 6


def test_pairwise_by_hand():
    distances = np.full((1, 31), np.nan, np.float32)
    distances[0, 15] = 0.5
    distances[0, 15 + np.array([-2, -1, 1, 2])] = 0.1  # too near to count
    distances[0, 15 + np.array([-3, 3, 8, 15])] = (0.4, 0.5, 0.6, 0.9)  # nearer, alike, and farther twice
    assert judgement(distances).pairwise == pytest.approx((0 + 0.5 + 1 + 1) / 4)


def test_pairs_of_all_clips_weigh_alike():
    good, bad = np.full((2, 3, 31), np.nan, np.float32)
    good[:, 15], good[:, 18:20] = 0, 1  # six pairs won
    bad[:2, 15], bad[:2, 18] = 1, 0  # two pairs lost
    found = Validation([judgement(good), judgement(bad)])
    assert found.values()["pairwise"] == pytest.approx(6 / 8)
    assert found.curve[[15, 18, 19]].tolist() == pytest.approx([2 / 5, 3 / 5, 1])


def test_the_best_threshold_by_hand():
    matched, apart = np.array([0.9, 0.5, 0.3]), np.array([0.4, 0.1, 0.2, 0.6])
    # From 0.3 on: all of 3 kept, 2 of 4 refused. 0.5: 2 of 3, 3 of 4. 0.9: 1 of 3, all of 4.
    thresholds = np.array([0.3, 0.5, 0.9])
    expected = [(1 + 2 / 4) / 2, (2 / 3 + 3 / 4) / 2, (1 / 3 + 1) / 2]
    assert balanced_accuracy(matched, apart, thresholds).tolist() == pytest.approx(expected)
    assert best_threshold(matched, apart) == pytest.approx((0.75, 0.3))


def test_a_cosine_at_the_threshold_is_in_sync():
    assert best_threshold(np.array([0.5]), np.array([0.5])) == (0.5, 0.5)
    assert best_threshold(np.array([0.5]), np.array([np.nextafter(0.5, 0)])) == (1.0, 0.5)


def test_both_kinds_weigh_alike():
    few, many = np.array([0.2, 0.8]), np.repeat([0.1, 0.5], 5000)
    assert best_threshold(few, many) == pytest.approx((0.75, 0.2))
    assert best_threshold(-many, -few)[0] == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_than_the_best(seed):
    rng = np.random.default_rng(seed)
    matched, apart = rng.normal(0.3, 0.2, 40).round(2), rng.normal(0, 0.2, 300).round(2)
    accuracy, threshold = best_threshold(matched, apart)
    tried = [((matched >= t).mean() + (apart < t).mean()) / 2 for t in np.linspace(-1, 1, 401)]
    assert accuracy == pytest.approx(max(tried))
    assert accuracy == pytest.approx(((matched >= threshold).mean() + (apart < threshold).mean()) / 2)


def test_heard_windows_have_an_accuracy_and_a_threshold_of_their_own():
    distances = np.full((20, 31), np.nan, np.float32)
    heard = np.arange(20) < 10
    distances[heard, 15], distances[heard, 18] = 0.8, 0.9
    distances[~heard, 15], distances[~heard, 18] = 0.3, 0.2
    values = Validation([judgement(distances, heard)]).values()
    assert values["accuracy_heard"] == 1
    # Over all: cosines 0.2 and 0.7 in sync, 0.1 and 0.8 off-sync; the best is to refuse 0.1.
    assert values["accuracy"] == pytest.approx(0.75)
    assert values["threshold"] == pytest.approx(0.2)


def test_offsets_are_counted_of_clips_that_are_long_enough():
    clips = [of_offset(*each) for each in ((9, 34), (1, 35), (-1, 40), (2, 74), (0, 75), (5, 90))]
    values = Validation(clips).values()
    assert values["offset_within_1"] == pytest.approx(3 / 5)
    assert values["offset_within_1_long"] == pytest.approx(1 / 2)
    assert "offset_within_1_long" not in Validation(clips[:4]).values()
    assert "offset_within_1" not in Validation(clips[:1]).values()
    assert all(map(math.isfinite, Validation(clips[:1]).values().values()))


def test_a_real_network_is_validated_in_eval_mode_and_left_as_it_was(tmp_path):
    torch.manual_seed(0)
    network = SmallSyncNet(dimension=8, dropout=0.5)
    clips = [numbered(tmp_path / "clip.safetensors", 40)]
    expected = validate(SyncExpert(network.eval()), clips)
    network.train()
    found = validate(SyncExpert(network), clips)
    assert network.training
    assert all(module.training for module in network.modules())
    assert np.array_equal(found.clips[0].distances, expected.clips[0].distances, equal_nan=True)
    network.eval()
    validate(SyncExpert(network), clips)
    assert not network.training


def test_the_mode_comes_back_after_a_clip_that_cannot_be_read(tmp_path):
    network, clip = SmallSyncNet(dimension=8).train(), numbered(tmp_path / "clip.safetensors", 20)
    clip.path.unlink()
    with pytest.raises(ValueError, match=r"clip\.safetensors"):
        validate(SyncExpert(network), [clip])
    assert network.training


def test_clips_without_an_off_sync_sound_are_left_out(tmp_path):
    lengths = (4, 7, 8, 20)
    clips = [numbered(tmp_path / f"{frames}.safetensors", frames) for frames in lengths]
    found = validate(SyncExpert(Counter()), clips)
    assert [clip.frames for clip in found.clips] == [8, 20]
    assert set(found.values()) == {"accuracy", "accuracy_heard", "threshold", "pairwise"}
    for few in (clips[:2], []):
        with pytest.raises(ValueError, match=f"clips of 8 frames or more, but none of the {len(few)} is"):
            validate(SyncExpert(Counter()), few)
