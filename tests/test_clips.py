"""Clips: what is written comes back, nothing foreign, half or damaged is read, and speakers are drawn fairly."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from preprocessing import clips
from preprocessing.audio import AudioConfig
from preprocessing.clips import Clip, open_clips, speaker_weights, write_clip


def faces(count: int = 20) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)


def write(path: Path, count: int = 20, speaker: str = "anna", config: AudioConfig = AudioConfig()) -> Path:
    columns = round(count * 3.2)
    mel = np.random.default_rng(1).normal(size=(80, columns)).astype(np.float32)
    write_clip(path, faces(count), mel, np.arange(columns) % 3 == 0, speaker=speaker, margin=2, config=config)
    return path


def test_a_clip_comes_back_as_written(tmp_path):
    clip = Clip.open(write(tmp_path / "a.safetensors"))
    assert (clip.path, clip.speaker, clip.frames, clip.margin) == (tmp_path / "a.safetensors", "anna", 20, 2)
    assert clip.mel.dtype == np.float32
    assert np.array_equal(clip.mel, np.random.default_rng(1).normal(size=(80, 64)).astype(np.float32))
    assert clip.speech.dtype == bool
    assert clip.speech.tolist() == [k % 3 == 0 for k in range(64)]
    assert np.array_equal(clip.faces(0, 20), faces())


@pytest.mark.parametrize(
    ("first", "count", "step", "expected"),
    [(0, 1, 1, [0]), (7, 5, 1, [7, 8, 9, 10, 11]), (3, 4, 2, [3, 5, 7, 9]), (1, 3, 9, [1, 10, 19]), (19, 1, 1, [19])],
)
def test_a_window_of_faces_is_read_alone(tmp_path, first, count, step, expected):
    clip = Clip.open(write(tmp_path / "a.safetensors"))
    window = clip.faces(first, count, step)
    assert window.dtype == np.uint8
    assert np.array_equal(window, faces()[expected])


def test_views_are_written_as_they_look(tmp_path):
    mel = np.arange(64 * 80, dtype=np.float32).reshape(64, 80).T
    pictures = faces()[::-1, :, ::-1]
    speech = (np.arange(128) % 5 == 0)[::2]
    write_clip(tmp_path / "a.safetensors", pictures, mel, speech, speaker="b", margin=0, config=AudioConfig())
    clip = Clip.open(tmp_path / "a.safetensors")
    assert np.array_equal(clip.mel, mel)
    assert np.array_equal(clip.faces(0, 20), pictures)
    assert np.array_equal(clip.speech, speech)


def test_a_written_clip_is_one_file_readable_like_any_other(tmp_path):
    path = write(tmp_path / "a.safetensors")
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "plain"]


@pytest.mark.parametrize("call", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_no_clip_and_keeps_the_old_one(tmp_path, monkeypatch, call):
    path = write(tmp_path / "old.safetensors", 20)
    seen = []

    def fail(part, data):
        if call == "write_bytes":
            with part.open("wb") as file:
                file.write(data[: len(data) // 2])
        seen.extend(open_clips(tmp_path, 1))  # another process looks for clips at this moment
        raise OSError("disk full")

    monkeypatch.setattr(Path if call == "write_bytes" else clips.os, call, fail)
    for name in ("old.safetensors", "new.safetensors"):
        with pytest.raises(OSError, match="disk full"):
            write(tmp_path / name, 30)
    assert [(clip.path, clip.frames) for clip in seen] == [(path, 20)] * 2
    assert list(tmp_path.rglob("*")) == [path]


def test_truncation_is_refused_wherever_it_cuts(tmp_path):
    path = write(tmp_path / "a.safetensors")
    data = path.read_bytes()
    for size in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is not a prepared clip"):
            Clip.open(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "np"},
        {"clip": "{"},
        {"clip": "[1, 2]"},
        {"clip": "7"},
        {"clip": json.dumps({"speaker": "a", "frames": 20, "margin": 2})},
        {"clip": json.dumps({"speaker": "a", "frames": 20, "audio": asdict(AudioConfig())})},
    ],
)
def test_a_file_of_others_is_refused(tmp_path, metadata):
    path = tmp_path / "a.safetensors"
    save_file(
        {"faces": faces(), "mel": np.zeros((80, 64), np.float32), "speech": np.zeros(64, np.uint8)}, path, metadata
    )
    with pytest.raises(ValueError, match="is not a prepared clip"):
        Clip.open(path)


def test_a_clip_without_its_mel_and_a_missing_one_are_refused(tmp_path):
    header = {"speaker": "a", "frames": 20, "margin": 2, "audio": asdict(AudioConfig())}
    save_file({"faces": faces()}, tmp_path / "a.safetensors", {"clip": json.dumps(header)})
    for name in ("a.safetensors", "missing.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is not a prepared clip"):
            Clip.open(tmp_path / name)


def test_a_foreign_front_end_is_refused_naming_both_values(tmp_path):
    path = write(tmp_path / "a.safetensors", config=AudioConfig(hop_length=160))
    with pytest.raises(ValueError, match=r"a\.safetensors was made with hop_length = 160, here it is 200"):
        Clip.open(path)
    assert Clip.open(path, AudioConfig(hop_length=160)).frames == 20


def test_clips_are_found_below_a_folder_by_name_and_length(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "x.safetensors", 20)
    write(tmp_path / "c.safetensors", 9)
    write(tmp_path / "a.safetensors", 10)
    assert [clip.path.name for clip in open_clips(tmp_path, 1)] == ["a.safetensors", "x.safetensors", "c.safetensors"]
    assert [clip.path.name for clip in open_clips(tmp_path, 10)] == ["a.safetensors", "x.safetensors"]
    with pytest.raises(ValueError, match=r"holds no clip of 21 frames or more.*preprocessing\.build"):
        open_clips(tmp_path, 21)
    with pytest.raises(ValueError, match="holds no clip"):
        open_clips(tmp_path / "missing", 1)


def test_a_speaker_is_drawn_by_the_square_root_of_its_clips(tmp_path):
    path = write(tmp_path / "a.safetensors")
    speakers = ["anna"] * 4 + ["ben"] + ["carl"] * 9
    found = [Clip(path, speaker, 20, 2, np.zeros((80, 1)), np.zeros(1, bool)) for speaker in speakers]
    weights = speaker_weights(found)
    # Square roots 2, 1 and 3, so 1/3, 1/6 and 1/2 of the draws, shared equally by a speaker's clips.
    assert weights == pytest.approx([1 / 12] * 4 + [1 / 6] + [1 / 18] * 9)
    assert weights.sum() == pytest.approx(1)
