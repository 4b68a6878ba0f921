"""What the generator is shown while it trains, and what its faces cost."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from preprocessing.augmentation import Augmentation
from preprocessing.clips import Clip
from preprocessing.windows import Region, mel_windows
from syncnet.expert import Expert
from tests.material import write_numbered_clip
from wav2lip.data import DISGUISE, Look, reference_frame, sample
from wav2lip.losses import expert_loss, generator_losses, mouth_weight, plain_l1, total

FRAMES, MARGIN = 40, 8
NONE = Augmentation.none()


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> Clip:
    """A clip whose frame k has the value k everywhere and whose mel column c has the value c / 100."""
    path = tmp_path_factory.mktemp("counted") / "counted.safetensors"
    faces = np.broadcast_to(np.arange(FRAMES, dtype=np.uint8)[:, None, None, None], (FRAMES, 112, 112, 3))
    mel = np.tile(np.arange(129, dtype=np.float32) / 100, (80, 1))
    return Clip.open(write_numbered_clip(path, faces, margin=MARGIN, mel=mel, flags=np.arange(129) < 100))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Clip:
    """A clip of one still picture of smooth noise."""
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
        window = sample(counted, np.random.default_rng(seed), augmentation=NONE)
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


def test_a_look_keeps_the_parts_above_and_below_the_mask_apart(tmp_path):
    faces = np.full((FRAMES, 112, 112, 3), 255, np.uint8)  # the margin does not count
    faces[:, 8:48, 8:104] = 3 * np.arange(FRAMES)[:, None, None, None]
    faces[:, 48:104, 8:104] = 100
    clip = Clip.open(write_numbered_clip(tmp_path / "a.safetensors", faces, margin=MARGIN))
    look = Look.of(clip, [3, 20, 39, 3], 40 / 96)
    assert look.pose.shape == (4, 10 * 24)  # of 24 rows the first 10 lie above the mask
    assert look.mouth.shape == (4, 14 * 24)
    assert np.abs(look.pose - np.array([[9], [60], [117], [9]])).max() <= 2
    assert np.abs(look.mouth - 100).max() <= 2
    again = Look.of(clip, [20], 20 / 96)  # and another generator's mask
    assert again.pose.shape == (1, 5 * 24)


def test_a_reference_holds_its_head_alike_and_its_mouth_differently():
    pose, mouth = np.full((30, 144), 100, np.float32), np.zeros((30, 144), np.float32)
    # The window is 10..14 about frame 12. Of the 17 frames five away, these five are the third with the nearest pose;
    for frame in (1, 3, 12, 20, 25, 29):
        pose[frame] = 0
    # of them the two with the farthest mouths are drawn, and never a frame nearby, however far its mouth.
    mouth[[1, 3, 20, 25, 29, 8]] = np.array([[1], [50], [-60], [2], [3], [200]])
    look = Look(np.arange(30), pose, mouth)
    assert {look.reference(12, np.random.default_rng(seed)) for seed in range(40)} == {3, 20}
    order = np.random.default_rng(0).permutation(30)
    look = Look(order, pose[order], mouth[order])
    assert {look.reference(12, np.random.default_rng(seed)) for seed in range(40)} == {3, 20}


def test_references_come_from_the_whole_clip_but_not_from_nearby(counted, monkeypatch):
    found = [reference_frame(counted, 20, 0.4, np.random.default_rng(seed)) for seed in range(150)]
    assert all(frame <= 15 or frame >= 29 for frame in found)
    assert min(found) < 15 < 29 < max(found)
    assert len(set(found)) > 5  # the nearest in pose, which here are the nearest in time
    looked_at = []
    real = Look.of
    monkeypatch.setattr(Look, "of", lambda clip, frames, mask: looked_at.append(frames) or real(clip, frames, mask))
    reference_frame(counted, 20, 0.4, np.random.default_rng(0))
    assert len(looked_at[0]) == len(set(looked_at[0])) == 25  # the window's and 24 others


def test_silence_stays_silence_whatever_is_done_to_the_sound(noisy, tmp_path):
    faces, mel, still = noisy.faces(0, 20), noisy.mel[:, :65], np.zeros(65, bool)
    path = write_numbered_clip(tmp_path / "a.safetensors", faces, mel=mel, flags=still)
    for seed in range(5):
        for how in (DISGUISE, Augmentation()):
            assert (sample(Clip.open(path), np.random.default_rng(seed), augmentation=how).mels == -4).all()


@pytest.mark.parametrize("frames", [5, 7, 8])
def test_a_clip_too_short_for_a_distant_reference_gives_its_first_frame(tmp_path, frames):
    faces = np.broadcast_to(10 * np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 112, 112, 3))
    clip = Clip.open(write_numbered_clip(tmp_path / "a.safetensors", faces, margin=MARGIN))
    window = sample(clip, np.random.default_rng(0), augmentation=NONE)
    assert (window.reference == 0).all()
    assert window.target[0, 0, 0, 0] == (0 if frames == 5 else window.target[1, 0, 0, 0] - 10)


def test_a_larger_generator_gets_larger_pictures_with_the_same_content(noisy):
    small, large = (sample(noisy, np.random.default_rng(1), size, 40 * size // 96, NONE) for size in (96, 192))
    assert large.target.shape == large.reference.shape == (5, 192, 192, 3)
    halved = np.stack([cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA) for face in large.target])
    assert np.abs(halved.astype(int) - small.target).mean() < 3
    assert np.array_equal(large.mels, small.mels)


def test_the_mouth_weighs_most_and_hidden_rows_nothing():
    weight = mouth_weight(96, 40)
    assert weight.shape == (1, 1, 96, 96)
    assert not weight[:, :, :40].any()
    assert weight[:, :, 40:].mean().item() == pytest.approx(1)
    row, column = divmod(int(weight.argmax()), 96)
    assert (row, column) == (55, 48)  # 0.57 and 0.5 of the side
    assert weight.max() / weight[:, :, 40:].min() == pytest.approx(4, rel=0.05)


def test_generator_losses_by_hand():
    target = torch.zeros(1, 3, 4, 4)
    picture, flow, mix = target.clone(), torch.zeros(1, 2, 4, 4), torch.full((1, 1, 4, 4), 0.25)
    picture[:, :, 0] = 0.9  # above the mask: costs nothing
    picture[0, 0, 2, 1] = 0.6
    flow[0, 0, 3, 0] = 0.3
    weight = torch.ones(1, 1, 4, 4)
    weight[0, 0, 2, 1] = 2
    losses = generator_losses(picture, target, flow, mix, weight, 2)
    assert losses["l1"].item() == pytest.approx(2 * 0.6 / 24)
    assert losses["gradient"].item() == pytest.approx(2 * 0.6 / 18 + 0.6 / 12)  # two neighbours beside, one below
    assert losses["smooth"].item() == pytest.approx(0.3 / 12 + 0.3 / 8)
    assert losses["paint"].item() == pytest.approx(0.25)
    assert plain_l1(picture, target, 2).item() == pytest.approx(0.6 / 24)


def test_plain_l1_is_the_originals(shared):
    with np.load(shared / "reference/golden/losses.npz") as golden:
        made = torch.from_numpy(golden["fake_u8"] / np.float32(255)).transpose(1, 2).flatten(0, 1)
        real = torch.from_numpy(golden["window_bgr"] / np.float32(255)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        assert plain_l1(made, real, 0).item() == pytest.approx(float(golden["l1"]), abs=1e-4)


def test_the_expert_judges_the_mouths_it_was_trained_on():
    seen = {}

    def stand_in(mel, mouths):
        seen["mouths"] = mouths
        return torch.tensor([[1.0, 0]]), torch.tensor([[0.6, 0.8]])

    expert = Expert(stand_in)
    pictures = torch.rand(1, 3, 5, 96, 96)
    loss = expert_loss(expert, pictures, torch.zeros(1, 1, 80, 16))
    assert loss.item() == pytest.approx(-np.log(0.8))
    assert seen["mouths"].shape == (1, 15, 64, 64)
    frame_2_green = seen["mouths"][0, 3 * 2 + 1]
    assert torch.allclose(frame_2_green, pictures[0, 1, 2, 28:92, 16:80], atol=1e-4)
    expert_loss(expert, pictures, torch.zeros(1, 1, 80, 16), shift=(-3, 4))
    left_and_down = seen["mouths"][0, 3 * 2 + 1]
    assert torch.allclose(left_and_down, pictures[0, 1, 2, 32:96, 13:77], atol=1e-4)


def test_larger_pictures_show_the_expert_the_same_mouth():
    # A picture that is linear in x and y reads the same at any size: value at a pixel's centre, in shares of the side.
    def ramp(size: int) -> torch.Tensor:
        centres = (torch.arange(size) + 0.5) / size
        return (0.3 * centres[None] + 0.6 * centres[:, None]).expand(1, 3, 5, size, size)

    expert = Expert(lambda mel, mouths: None, region=Region(12 / 96, 22 / 96, 72 / 96, 48))
    small, large = expert.look(ramp(96)), expert.look(ramp(192))
    assert small.shape == large.shape == (1, 15, 48, 48)
    assert torch.allclose(small, large, atol=1e-5)
    assert small[0, 0, 0, 0].item() == pytest.approx(0.3 * (12 + 0.75) / 96 + 0.6 * (22 + 0.75) / 96, abs=1e-5)


def test_the_total_is_the_weighted_sum():
    losses = {"l1": torch.tensor(2.0), "sync": torch.tensor(3.0)}
    assert total(losses, {"l1": 1.0, "sync": 0.5}).item() == 3.5
    with pytest.raises(AssertionError):
        total(losses, {"l1": 1.0})
