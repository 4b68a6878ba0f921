"""Sampling of references and silent windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preprocessing.dataset.clips import Clip
from tests.material import write_numbered_clip
from wav2lip.generator.reference_sampling import FramePoses, SilenceSampler, reference_frames, silent_windows

FRAMES, MARGIN = 40, 8


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> Clip:
    """A clip whose frame k has the value k everywhere."""
    faces = np.broadcast_to(np.arange(FRAMES, dtype=np.uint8)[:, None, None, None], (FRAMES, 112, 112, 3))
    path = tmp_path_factory.mktemp("counted") / "counted.safetensors"
    return Clip.open(write_numbered_clip(path, faces, margin=MARGIN))


def test_a_look_keeps_the_parts_above_and_below_the_mask_apart(tmp_path):
    faces = np.full((FRAMES, 112, 112, 3), 255, np.uint8)  # the margin does not count
    faces[:, 8:48, 8:104] = 3 * np.arange(FRAMES)[:, None, None, None]
    faces[:, 48:104, 8:104] = 100
    clip = Clip.open(write_numbered_clip(tmp_path / "a.safetensors", faces, margin=MARGIN))
    look = FramePoses.of(clip, [3, 20, 39, 3], 40 / 96)
    assert look.pose.shape == (4, 10 * 24)  # of 24 rows the first 10 lie above the mask
    assert look.mouth.shape == (4, 14 * 24)
    assert np.abs(look.pose - np.array([[9], [60], [117], [9]])).max() <= 2
    assert np.abs(look.mouth - 100).max() <= 2
    again = FramePoses.of(clip, [20], 20 / 96)  # and another generator's mask
    assert again.pose.shape == (1, 5 * 24)


def test_a_reference_holds_its_head_alike_and_its_mouth_differently():
    pose, mouth = np.full((30, 144), 100, np.float32), np.zeros((30, 144), np.float32)
    # The window is 10..14 about frame 12. Of the 17 frames five away, these five are the third with the nearest pose;
    for frame in (1, 3, 12, 20, 25, 29):
        pose[frame] = 0
    # of them the two with the farthest mouths are drawn, and never a frame nearby, however far its mouth.
    mouth[[1, 3, 20, 25, 29, 8]] = np.array([[1], [50], [-60], [2], [3], [200]])
    look = FramePoses(np.arange(30), pose, mouth)
    assert {look.reference(12, np.random.default_rng(seed)) for seed in range(40)} == {3, 20}
    order = np.random.default_rng(0).permutation(30)
    look = FramePoses(order, pose[order], mouth[order])
    assert {look.reference(12, np.random.default_rng(seed)) for seed in range(40)} == {3, 20}


def test_references_come_from_the_whole_clip_but_not_from_nearby(counted, monkeypatch):
    found = [reference_frames(counted, 20, 0.4, np.random.default_rng(seed))[0] for seed in range(150)]
    assert all(frame <= 15 or frame >= 29 for frame in found)
    assert min(found) < 15 < 29 < max(found)
    assert len(set(found)) > 5  # the nearest in pose, which here are the nearest in time
    looked_at = []
    real = FramePoses.of
    monkeypatch.setattr(
        FramePoses, "of", lambda clip, frames, mask: looked_at.append(frames) or real(clip, frames, mask)
    )
    reference_frames(counted, 20, 0.4, np.random.default_rng(0))
    assert len(looked_at[0]) == len(set(looked_at[0])) == 25  # the window's and 24 others


@pytest.mark.parametrize(("policy", "nearest"), [("random", 1), ("far", 5), ("pose", 5)])
@pytest.mark.parametrize("moving", [False, True])
def test_references_keep_away_from_the_window(counted, policy, nearest, moving):
    distances, drawn = set(), set()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        first = int(rng.integers(1, FRAMES - 4))
        start, count = reference_frames(counted, first, 0.4, rng, policy, moving)
        others = set(range(start, start + count))
        assert count == (5 if moving else 1)
        distances.add(min(abs(frame - other) for frame in range(first, first + 5) for other in others))
        drawn |= others
    assert min(distances) >= nearest
    assert drawn <= set(range(FRAMES))
    if policy != "pose":
        assert min(distances) == nearest
        assert drawn == set(range(FRAMES))
        assert max(distances) > 25  # from the other end of the clip


def clip_of(path: Path, flags: np.ndarray, mouths: np.ndarray | None = None, frames: int = FRAMES, **how) -> Clip:
    """A clip whose lower half has the given values, 100 if None."""
    faces = np.full((frames, 112, 112, 3), 100, np.uint8)
    if mouths is not None:
        faces[:, 48:] = mouths[:, None, None, None]
    return Clip.open(write_numbered_clip(path, faces, margin=MARGIN, flags=flags, **how))


def test_silent_places_are_silent_from_three_frames_before_to_three_after(tmp_path):
    rng, flags = np.random.default_rng(1), np.ones(129, bool)
    for begin in (0, 35, 88):
        flags[begin : begin + int(rng.integers(30, 41))] = False
    clip = clip_of(tmp_path / "a.safetensors", flags)

    def quiet(frame: int) -> bool:  # no column is spoken that shares any time with the frame: 5 columns are 16 fifths
        return not any(flags[c] for c in range(129) if 5 * c < 16 * (frame + 1) and 5 * (c + 1) > 16 * frame)

    expected = [first for first in range(3, FRAMES - 7) if all(quiet(k) for k in range(first - 3, first + 8))]
    assert silent_windows(clip).tolist() == expected
    assert expected  # some are there


def test_nothing_rests_in_a_clip_shorter_than_a_window_with_its_margins(tmp_path):
    for frames, count in ((10, 0), (11, 1), (12, 2)):
        clip = clip_of(tmp_path / f"{frames}.safetensors", np.zeros(1 + frames * 640 // 200, bool), frames=frames)
        assert len(silent_windows(clip)) == count


def test_the_stillest_of_the_silent_windows_is_taken(tmp_path):
    flags, mouths = np.ones(129, bool), 100 + 3 * np.arange(FRAMES, dtype=np.uint8)
    flags[32:87] = False  # frames 10 to 26: windows from 13 to 19
    mouths[19:24] = 100 + 3 * 21  # it opens evenly, but rests in the window from 19 on
    clip = clip_of(tmp_path / "a.safetensors", flags, mouths)
    assert silent_windows(clip).tolist() == list(range(13, 20))
    drawn = [SilenceSampler([clip]).draw(clip, 40 / 96, np.random.default_rng(seed)) for seed in range(30)]
    assert all(place and place[0] is clip for place in drawn)
    firsts = [place[1] for place in drawn if place]
    assert firsts.count(19) > 15  # six of the seven are looked at
    assert len(firsts) == 30


def test_a_clip_is_looked_into_once(tmp_path, monkeypatch):
    clip, looked = clip_of(tmp_path / "a.safetensors", np.ones(129, bool)), []
    rests = SilenceSampler([clip])
    monkeypatch.setattr(
        "wav2lip.generator.reference_sampling.silent_windows", lambda clip: looked.append(clip) or np.zeros(0, int)
    )
    assert not looked
    assert rests.draw(clip, 0.4, np.random.default_rng(0)) is None
    assert rests.draw(clip, 0.4, np.random.default_rng(1)) is None
    assert len(looked) == 1
