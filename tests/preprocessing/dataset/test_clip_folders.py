"""Folders of clips: which clips a manifest lists, and how speakers are drawn."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.dataset.clips import Clip, open_clips, speaker_weights
from preprocessing.dataset.manifest import ClipRow, write_rows
from preprocessing.faces.crops import CropGeometry
from tests.material import write_numbered_clip
from tests.preprocessing.dataset.clip_material import COUNT, change_header, numbered, write


def test_clips_are_found_below_a_folder_by_name_and_length(tmp_path):
    write(tmp_path / "b" / "x.safetensors", 20)
    write(tmp_path / "c.safetensors", 9)
    write(tmp_path / "a.safetensors", 10)
    assert [clip.path.name for clip in open_clips(tmp_path)] == ["a.safetensors", "x.safetensors", "c.safetensors"]
    assert [clip.path.name for clip in open_clips(tmp_path, 10)] == ["a.safetensors", "x.safetensors"]
    with pytest.raises(ValueError, match=r"holds no clip of 21 frames or more.*preprocessing\.build"):
        open_clips(tmp_path, 21)
    with pytest.raises(ValueError, match="holds no clip"):
        open_clips(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"has no manifest\.csv.*'train'"):
        open_clips(tmp_path, split="train")


def row(clip: str, speaker: str = "a", **values: Any) -> ClipRow:
    return ClipRow(clip, "a.mp4", 0, 0, 0.0, 0.8, COUNT, speaker, **{"split": "train", "size": 24} | values)


def listed(folder: Path) -> Path:
    for name in "abcde":
        write(folder / "clips" / f"{name}.safetensors", speaker="as the file says")
    rows = [row(f"clips/{name}.safetensors") for name in "cab"]
    rows += [row("clips/d.safetensors", split="val"), row("clips/e.safetensors", reason="yaw")]
    write_rows(folder / "manifest.csv", [*rows, row("", reason="side")])
    return folder


def test_a_manifest_says_what_is_read(tmp_path):
    def names(**options: Any) -> str:
        return "".join(clip.path.stem for clip in open_clips(listed(tmp_path), **options))

    assert names() == "abcd"
    assert names(split="train") == "abc"
    assert names(split="val") == "d"
    clip = open_clips(tmp_path, split="val")[0]
    assert (clip.speaker, clip.frames, clip.size, clip.margin) == ("a", COUNT, 24, 4)
    assert np.array_equal(clip.faces(2, 1), numbered()[2:3])
    for options in ({"split": "test"}, {"shortest": COUNT + 1}, {"split": "val", "shortest": COUNT + 1}):
        with pytest.raises(ValueError, match="holds no clip of"):
            open_clips(tmp_path, **options)


def test_listed_clips_are_not_opened_until_they_are_read(tmp_path):
    listed(tmp_path)
    for name in "bcd":
        (tmp_path / "clips" / f"{name}.safetensors").write_bytes(b"damaged")
    found = open_clips(tmp_path)
    assert [(clip.speaker, clip.frames, clip.size) for clip in found] == [("a", COUNT, 24)] * 4
    assert found[0].faces(0, 1).shape == (1, 32, 32, 3)
    for read in (lambda: found[1].faces(0, 1), lambda: found[2].mel, lambda: found[3].margin):
        with pytest.raises(ValueError, match=r"[bcd]\.safetensors is not a prepared clip"):
            read()


def test_a_clip_replaced_by_a_shorter_one_is_refused_by_name(tmp_path):
    clip = Clip.open(write(tmp_path / "a.safetensors"))
    write(clip.path, 5)
    assert clip.faces(0, 5).shape == (5, 32, 32, 3)
    for first in (4, 5, 12):
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            clip.faces(first, 2)


def test_a_start_may_be_given_as_any_number(tmp_path):
    for start in (3, Fraction(1, 25)):
        clip = Clip.open(write(tmp_path / "a.safetensors", start=start))
        assert clip.header.start == float(start)
        assert type(clip.header.start) is float


def test_a_file_that_is_not_what_the_manifest_lists_is_refused(tmp_path):
    listed(tmp_path)
    write(tmp_path / "clips" / "b.safetensors", COUNT - 1)
    write_numbered_clip(tmp_path / "clips" / "c.safetensors", numbered(), margin=5)
    found = open_clips(tmp_path)
    for clip in found[1:3]:
        with pytest.raises(ValueError, match=r"[bc]\.safetensors does not match its manifest entry"):
            clip.faces(0, 1)


def test_crops_of_two_kinds_are_refused(tmp_path):
    listed(tmp_path)
    change_header(tmp_path / "clips" / "c.safetensors", crop=asdict(CropGeometry("box", 24)))
    found = open_clips(tmp_path)
    for clip in found[:2]:
        assert clip.margin == 4
    with pytest.raises(ValueError, match=r"c\.safetensors .* 'box'.* 'points'"):
        found[2].faces(0, 1)
    with pytest.raises(ValueError, match=r"c\.safetensors .* 'box'.* 'points'"):
        open_clips(tmp_path / "clips")


def test_a_speaker_is_drawn_by_the_square_root_of_its_clips():
    speakers = ["anna"] * 4 + ["ben"] + ["carl"] * 9
    weights = speaker_weights([Clip(Path("x"), listed=(speaker, 20, 96)) for speaker in speakers])
    # Square roots 2, 1 and 3, so 1/3, 1/6 and 1/2 of the draws, split equally among a speaker's clips.
    assert weights == pytest.approx([1 / 12] * 4 + [1 / 6] + [1 / 18] * 9)
    assert weights.sum() == pytest.approx(1)
