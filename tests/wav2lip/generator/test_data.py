"""The generator's training windows."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from preprocessing.dataset.augmentation import Augmentation
from preprocessing.dataset.clips import Clip, open_clips
from preprocessing.dataset.windows import WindowDataset, batches, mel_windows
from tests.material import write_numbered_clip, write_talking_clips
from wav2lip.generator.data import GeneratorBatch, GeneratorWindow, Sampling, SilenceSampler, collate, sample
from wav2lip.generator.model import mask_and_stack

FRAMES, MARGIN = 40, 8
PLAIN = Sampling.plain()


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> Clip:
    """A clip whose frame k has the value k everywhere and whose mel column c has the value c / 100."""
    path = tmp_path_factory.mktemp("counted") / "counted.safetensors"
    faces = np.broadcast_to(np.arange(FRAMES, dtype=np.uint8)[:, None, None, None], (FRAMES, 112, 112, 3))
    mel = np.tile(np.arange(129, dtype=np.float32) / 100, (80, 1))
    return Clip.open(write_numbered_clip(path, faces, margin=MARGIN, mel=mel, flags=np.arange(129) < 100))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Clip:
    """A clip with one still frame of smooth noise."""
    path = tmp_path_factory.mktemp("noisy") / "noisy.safetensors"
    rng = np.random.default_rng(0)
    still = cv2.resize(rng.integers(20, 236, (14, 14, 3)).astype(np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
    mel, speaking = rng.uniform(-4, 4, (80, 129)), np.ones(129, bool)
    faces = np.repeat(still[None], FRAMES, axis=0)
    return Clip.open(write_numbered_clip(path, faces, margin=MARGIN, mel=mel, flags=speaking))


def test_frames_meet_the_sounds_of_the_originals_training(shared):
    with np.load(shared / "reference/golden/audio.npz") as audio:
        mel = audio["mel_reflect"].astype(np.float32)
    with np.load(shared / "reference/golden/losses.npz") as golden:
        for start, expected in zip(golden["start_frame"], golden["indiv_mels"], strict=True):
            assert np.array_equal(mel_windows(mel, range(int(start), int(start) + 5)), expected)


def test_a_window_is_five_frames_with_their_sounds_and_a_reference_from_elsewhere(counted):
    firsts, others = set(), set()
    for seed in range(100):
        window = sample(counted, np.random.default_rng(seed), sampling=PLAIN)
        assert window.target.shape == window.reference.shape == (5, 96, 96, 3)
        first, other = int(window.target[0, 0, 0, 0]), int(window.reference[0, 0, 0, 0])
        assert window.target[:, 50, 50, 1].tolist() == [first + k for k in range(5)]
        assert (window.reference == other).all()
        assert other <= first - 5 or other >= first + 4 + 5
        assert window.window_mel[0, 0, 0] == pytest.approx(int(80 * first / 25) / 100)
        for k in range(5):
            start = int(80 * (first + k - 1) / 25)
            heard = [c / 100 if c < 100 else -4 for c in range(start, start + 16)]  # from column 100 on nobody speaks
            assert window.mels[k, 0, 0] == pytest.approx(heard, abs=1e-5)
        firsts.add(first)
        others.add(other)
    assert {1, FRAMES - 5} <= firsts
    assert len(others) > 10


def test_augmented_windows_stay_inside_the_clip_and_follow_the_seed(noisy):
    for seed in range(15):
        window = sample(noisy, np.random.default_rng(seed))
        assert window.target.shape == window.reference.shape == (5, 96, 96, 3)
        assert window.mels.dtype == np.float32
        assert -4 <= window.mels.min() < window.mels.max() <= 4
    again = sample(noisy, np.random.default_rng(14))
    assert all(np.array_equal(a, b) for a, b in zip(vars(window).values(), vars(again).values(), strict=True))


def test_target_and_reference_are_augmented_alike_but_for_a_pixel(noisy):
    moved = set()
    for seed in range(15):
        window = sample(noisy, np.random.default_rng(seed))
        target, reference = window.target[0, 8:-8, 8:-8], window.reference[0]
        found = cv2.matchTemplate(reference, target, cv2.TM_SQDIFF)
        row, column = divmod(int(found.argmin()), found.shape[1])
        assert found.min() < 1  # the same flip and colours
        assert max(abs(row - 8), abs(column - 8)) <= 1
        moved.add((row, column))
    assert len(moved) > 5


def test_silence_stays_silence_whatever_is_done_to_the_sound(noisy, tmp_path):
    faces, mel, still = noisy.faces(0, 20), noisy.mel[:, :65], np.zeros(65, bool)
    path = write_numbered_clip(tmp_path / "a.safetensors", faces, mel=mel, flags=still)
    for seed in range(5):
        for how in (Sampling(), Sampling(augmentation=Augmentation())):
            window = sample(Clip.open(path), np.random.default_rng(seed), sampling=how)
            assert (window.mels == -4).all()
            assert window.silent


@pytest.mark.parametrize("frames", [5, 7, 8])
def test_a_clip_too_short_for_a_distant_reference_gives_its_first_frame(tmp_path, frames):
    faces = np.broadcast_to(10 * np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 112, 112, 3))
    clip = Clip.open(write_numbered_clip(tmp_path / "a.safetensors", faces, margin=MARGIN))
    window = sample(clip, np.random.default_rng(0), sampling=PLAIN)
    assert (window.reference == 0).all()
    assert window.target[0, 0, 0, 0] == (0 if frames == 5 else window.target[1, 0, 0, 0] - 10)


def test_a_larger_generator_gets_larger_pictures_with_the_same_content(noisy):
    small, large = (sample(noisy, np.random.default_rng(1), size, 40 * size // 96, PLAIN) for size in (96, 192))
    assert large.target.shape == large.reference.shape == (5, 192, 192, 3)
    halved = np.stack([cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA) for face in large.target])
    assert np.abs(halved.astype(int) - small.target).mean() < 3
    assert np.array_equal(large.mels, small.mels)


def first_and_references(window: GeneratorWindow) -> tuple[int, list[int]]:
    """Frame numbers of the target's start and of the reference, from a clip whose frames show their numbers."""
    assert (np.diff(window.target[:, 0, 0, 0].astype(int)) == 1).all()
    return int(window.target[0, 0, 0, 0]), window.reference[:, 0, 0, 0].tolist()


def test_a_share_of_the_references_moves(counted):
    how = Sampling("far", moving=0.3, silent=0, augmentation=Augmentation.none())
    windows = [sample(counted, np.random.default_rng(seed), sampling=how) for seed in range(100)]
    moving = [others for _, others in map(first_and_references, windows) if len(set(others)) > 1]
    assert 17 <= len(moving) <= 43  # three standard deviations
    assert all((np.diff(others) == 1).all() for others in moving)


def test_a_clip_too_short_for_a_moving_reference_gives_a_still_one(tmp_path):
    faces = np.broadcast_to(10 * np.arange(12, dtype=np.uint8)[:, None, None, None], (12, 112, 112, 3))
    clip = Clip.open(write_numbered_clip(tmp_path / "a.safetensors", faces, margin=MARGIN))
    for seed in range(10):
        window = sample(clip, np.random.default_rng(seed), sampling=replace(PLAIN, moving=1.0))
        assert len(np.unique(window.reference)) == 1


def test_the_jitter_grows_with_the_picture(noisy):
    for size, jitter, reach in ((96, 0.0, 0), (96, 3.0, 3), (192, 1.0, 2)):
        moved, border = set(), 8 * size // 96
        for seed in range(25):
            how = replace(PLAIN, jitter=jitter)
            window = sample(noisy, np.random.default_rng(seed), size, 40 * size // 96, how)
            inside = window.target[0, border:-border, border:-border]
            found = cv2.matchTemplate(window.reference[0], inside, cv2.TM_SQDIFF)
            moved |= {place - border for place in divmod(int(found.argmin()), found.shape[1])}
        assert (min(moved), max(moved)) == (-reach, reach)


@pytest.mark.parametrize(
    "wrong", [{"reference": "nearest"}, {"moving": 1.1}, {"silent": -0.1}, {"jitter": -1.0}, {"jitter": float("nan")}]
)
def test_a_sampling_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} .*not "):
        Sampling(**wrong)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> list[Clip]:
    """Clips of a and b, frame k of value k and of clip n brightened by 50 n: a's second one has a rest."""
    folder, clips = tmp_path_factory.mktemp("people"), []
    quiet = np.ones(129, bool)
    quiet[32:80] = False  # frames 10 to 24, so that five with three on both sides begin at 13 to 17
    for number, (speaker, flags) in enumerate((("a", np.ones(129, bool)), ("a", quiet), ("b", np.ones(129, bool)))):
        faces = np.broadcast_to((50 * number + np.arange(40, dtype=np.uint8))[:, None, None, None], (40, 112, 112, 3))
        path = folder / f"{number}.safetensors"
        clips.append(Clip.open(write_numbered_clip(path, faces, margin=MARGIN, flags=flags, speaker=speaker)))
    return clips


def test_windows_of_silence_come_from_the_same_speaker(people):
    rests, how = SilenceSampler(people), replace(PLAIN, silent=1.0)
    for clip in people[:2]:
        windows = [sample(clip, np.random.default_rng(seed), sampling=how, silence=rests) for seed in range(10)]
        assert all(window.silent and (window.mels == -4).all() for window in windows)
        assert {first_and_references(window)[0] for window in windows} <= {50 + first for first in range(13, 18)}
        assert all(50 <= window.reference.min() <= window.reference.max() < 90 for window in windows)  # of that clip
    nobody = sample(people[2], np.random.default_rng(0), sampling=how, silence=rests)
    assert not nobody.silent
    assert nobody.target.min() >= 100
    assert not sample(people[0], np.random.default_rng(0), sampling=how).silent  # knows of no other clip


def test_a_share_of_the_windows_is_silent(people):
    rests, how = SilenceSampler(people), replace(PLAIN, silent=0.3, reference="far")
    silent = sum(sample(people[0], np.random.default_rng(i), sampling=how, silence=rests).silent for i in range(100))
    assert 17 <= silent <= 43


def test_the_windows_depend_on_seed_and_number_alone(tmp_path):
    clips = open_clips(write_talking_clips(tmp_path), 15)
    draw = partial(sample, size=64, mask_row=27, sampling=Sampling(silent=0.5), silence=SilenceSampler(clips))
    gather = partial(collate, mask_row=27)

    def stream(workers: int, start: int = 0) -> list[GeneratorBatch]:
        draws = WindowDataset(clips, np.ones(len(clips)), pickle.loads(pickle.dumps(draw)), seed=5)
        return list(batches(draws, 3, range(start, 4), workers=workers, collate=gather))

    first = stream(0)
    for other in (stream(2), stream(1), [*first[:2], *stream(0, start=2)]):
        for ours, theirs in zip(first, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(vars(ours).values(), vars(theirs).values(), strict=True))
    assert first[0].target.shape == (15, 3, 64, 64)


def test_a_batch_lines_its_windows_up():
    rng = np.random.default_rng(0)
    windows = [
        GeneratorWindow(
            rng.integers(0, 256, (5, 8, 8, 3), np.uint8), rng.integers(0, 256, (5, 8, 8, 3), np.uint8),
            rng.normal(size=(5, 1, 80, 16)).astype(np.float32), rng.normal(size=(1, 80, 16)).astype(np.float32), silent,
        )
        for silent in (False, True)
    ]  # fmt: skip
    batch = collate(windows, 5)
    assert batch.silent.tolist() == [False, True]
    assert batch.silent.dtype == torch.bool
    assert batch.target[7, 2, 3, 4] == windows[1].target[2, 3, 4, 2] / np.float32(255)  # frame 2 of the second
    assert np.array_equal(batch.faces[5:], mask_and_stack(windows[1].target, windows[1].reference, 5))
    assert np.array_equal(batch.mels[7], windows[1].mels[2])
    assert np.array_equal(batch.window_mel[1], windows[1].window_mel)
    moved = batch.to("meta")
    assert {part.device.type for part in vars(moved).values()} == {"meta"}
    assert moved.faces.shape == (10, 6, 8, 8)
