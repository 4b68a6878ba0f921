"""Clips of others, truncated and damaged ones are refused in one line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from preprocessing.dataset.clips import Clip, ClipHeader, encode, write_clip
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig
from tests.material import change_clip, still_track
from tests.preprocessing.dataset.clip_material import COUNT, change_header, noise, numbered, write


def offset_of(path: Path, name: str) -> int:
    """Byte offset of a tensor in the file, as the format defines it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return 8 + length + json.loads(data[8 : 8 + length])[name]["data_offsets"][0]


def test_damage_is_told_where_it_is_read_and_only_there(tmp_path):
    path = write(tmp_path / "a.safetensors")
    with safe_open(path, "numpy") as file:
        offsets = file.get_tensor("offsets")
    with path.open("r+b") as stream:
        stream.seek(offset_of(path, "frames") + int(offsets[7]) + 300)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    clip = Clip.open(path)
    assert np.array_equal(clip.faces(8, 12), numbered()[8:])
    assert np.array_equal(clip.faces(0, 7), numbered()[:7])
    assert np.array_equal(clip.faces(1, 4, 4), numbered()[1:14:4])
    for first, count, step in ((7, 1, 1), (3, 5, 1), (1, 3, 3)):
        with pytest.raises(ValueError, match=r"a\.safetensors is damaged in frame 7$"):
            clip.faces(first, count, step)


def test_pictures_that_are_none_or_of_another_size_are_refused(tmp_path):
    head = ClipHeader("a.mp4", "", 0.0, 3, crop=CropGeometry("points", 24), margin=4)
    jpegs = [encode(numbered(1)[0]), b"not an image", encode(numbered(1, side=31)[0])]
    write_clip(tmp_path / "a.safetensors", head, jpegs, noise(3), still_track(3), np.ones(10, bool))
    clip = Clip.open(tmp_path / "a.safetensors")
    assert clip.faces(0, 1).shape == (1, 32, 32, 3)
    for frame in (1, 2):
        with pytest.raises(ValueError, match=rf"a\.safetensors is damaged in frame {frame}: .* 32x32 image"):
            clip.faces(frame, 1)


def test_a_clip_cut_at_any_byte_is_refused(tmp_path):
    path = write(tmp_path / "a.safetensors", 2)
    data = path.read_bytes()
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="is not a prepared clip"):
        Clip.open(path)
    for size in reversed(range(len(data))):
        os.truncate(path, size)
        with pytest.raises(ValueError, match=r"a\.safetensors is not a prepared clip"):
            Clip.open(path)
    path.write_bytes(data)
    assert Clip.open(path).frames == 2


HEADERS: list[dict[str, Any]] = [
    {"frames": 0}, {"frames": -20}, {"frames": 19}, {"frames": 21}, {"frames": 20.0}, {"frames": "20"},
    {"frames": True}, {"frames": None}, {"frames": 10**30}, {"fps": 24}, {"fps": 0}, {"start": -1.0},
    {"start": math.nan}, {"start": math.inf}, {"start": "0"}, {"margin": -1}, {"margin": 10**9}, {"speaker": None},
    {"speaker": ["a"]}, {"person": "a"}, {"versions": []}, {"picture": [1]}, {"picture": 7}, {"picture": ["a", "b"]},
    {"crop": {}}, {"crop": None}, {"crop": {"kind": "points", "size": 0, "pads": []}},
    {"crop": {"kind": "points", "size": 24.0, "pads": []}}, {"crop": {"kind": "oval", "size": 24, "pads": []}},
    {"crop": {"kind": "points", "size": 24, "pads": [], "more": 1}},
    {"crop": {"kind": "points", "size": 24, "pads": 3}},
    {"crop": {"kind": "points", "size": 5000, "pads": []}}, {"audio": None}, {"audio": []},
]  # fmt: skip


@pytest.mark.parametrize("values", HEADERS, ids=str)
def test_an_absurd_header_is_refused_in_one_line(tmp_path, values):
    path = write(tmp_path / "a.safetensors")
    change_header(path, **values)
    with pytest.raises(ValueError, match=r"a\.safetensors is not a prepared clip: its .*") as caught:
        Clip.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "np"},
        {"format": "wav2lip-checkpoint", "version": "1", "clip": "{}"},
        {"format": "wav2lip-clip", "version": "1"},
        {"format": "wav2lip-clip", "version": "1", "clip": "{"},
        {"format": "wav2lip-clip", "version": "1", "clip": "[1, 2]"},
        {"format": "wav2lip-clip", "version": "1", "clip": "7"},
        {"format": "wav2lip-clip", "version": "1", "clip": "[" * 100_000},
        {"format": "wav2lip-clip", "version": "1", "clip": "{}"},
    ],
)
def test_a_file_of_others_is_refused(tmp_path, metadata):
    save_file({"frames": np.zeros(3, np.uint8)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match=r"a\.safetensors is not a prepared clip") as caught:
        Clip.open(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_another_version_is_refused_naming_both(tmp_path):
    path = write(tmp_path / "a.safetensors")
    change_clip(path, {"format": "wav2lip-clip", "version": "2", "clip": "{}"})
    with pytest.raises(ValueError, match=r"a\.safetensors is a clip of version 2; this program reads version 1"):
        Clip.open(path)


@pytest.mark.parametrize(
    "name", ["frames", "offsets", "checksums", "audio", "mel", "speech", "boxes", "points", "found"]
)
def test_a_tensor_that_lacks_or_does_not_fit_is_refused(tmp_path, name):
    path = write(tmp_path / "a.safetensors")
    with safe_open(path, "numpy") as file:
        tensor = file.get_tensor(name)
    for wrong in (None, tensor[:-1], tensor.astype(np.float64), tensor[None]):
        change_clip(path, **{name: wrong})
        with pytest.raises(ValueError, match=r"a\.safetensors is not a prepared clip: its .*"):
            Clip.open(path)
        change_clip(path, **{name: tensor})
    assert Clip.open(path).frames == COUNT


@pytest.mark.parametrize("place", [0, 1, 10, COUNT])
@pytest.mark.parametrize("value", [-1, 2**62])
def test_offsets_out_of_order_are_refused(tmp_path, place, value):
    path = write(tmp_path / "a.safetensors")
    with safe_open(path, "numpy") as file:
        offsets = file.get_tensor("offsets")
    offsets[place] = value
    change_clip(path, offsets=offsets)
    with pytest.raises(ValueError, match="its offsets are out of order"):
        Clip.open(path)


def test_an_empty_picture_is_refused(tmp_path):
    path = write(tmp_path / "a.safetensors")
    with safe_open(path, "numpy") as file:
        offsets = file.get_tensor("offsets")
    offsets[5] = offsets[4]
    change_clip(path, offsets=offsets)
    with pytest.raises(ValueError, match="its offsets are out of order"):
        Clip.open(path)


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "text.safetensors").write_text("a text that is no clip")
    for name in ("folder", "text", "missing", "new\nline", "\udcff"):
        with pytest.raises(ValueError, match="is not a prepared clip") as caught:
            Clip.open(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)
        assert str(caught.value).isprintable()


def test_a_foreign_front_end_is_refused_naming_both_values(tmp_path):
    path = write(tmp_path / "a.safetensors", audio=AudioConfig(hop_length=160))
    with pytest.raises(ValueError, match=r"a\.safetensors was made with hop_length = 160, expected 200"):
        Clip.open(path)
    clip = Clip.open(path, AudioConfig(hop_length=160))
    assert clip.mel.shape == (80, 1 + COUNT * 4)
