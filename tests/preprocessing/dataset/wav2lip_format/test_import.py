"""The original's folders become clips: cutting, splits, and safety against untrusted files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.dataset.clips import Clip, open_clips
from preprocessing.dataset.manifest import VideoRow, read_manifest, read_videos, write_rows
from preprocessing.dataset.wav2lip_format.conversion import export_wav2lip, import_wav2lip
from tests.material import photo, speech
from tests.preprocessing.dataset.wav2lip_format.material import build, clip, fates, ramp, write_wav


def faces(folder: Path, numbers: Iterable[int], audio: np.ndarray | None = None, rate: int = 16000) -> Path:
    """A folder in the original layout: image k is k + 60 wide, 80 high and has gray level k."""
    folder.mkdir(parents=True)
    numbers = list(numbers)
    for k in numbers:
        cv2.imwrite(str(folder / f"{k}.jpg"), np.full((80, 60 + k % 50, 3), k % 256, np.uint8))
    write_wav(folder / "audio.wav", ramp((max(numbers, default=0) + 1) * 640) if audio is None else audio, rate)
    return folder


def test_the_originals_folder_becomes_a_clip_for_every_run(tmp_path):
    numbers = [*range(3, 10), *range(12, 16), *range(30, 290)]
    faces(tmp_path / "w" / "anna" / "00001", numbers)
    assert import_wav2lip(tmp_path / "w", tmp_path / "c") == 3
    rows = read_manifest(tmp_path / "c" / "manifest.csv")
    # 12 .. 15 is shorter than a window; 260 images are a clip of 250 and one of 10.
    assert [(row.start, row.frames, row.number) for row in rows] == [(0.12, 7, 0), (1.2, 250, 1), (11.2, 10, 2)]
    assert [row.clip for row in rows] == [f"clips/anna/00001__a000{k}.safetensors" for k in range(3)]
    for row, first in zip(rows, (3, 30, 280), strict=True):
        made = Clip.open(tmp_path / "c" / row.clip)
        assert np.array_equal(made.audio, ramp(290 * 640)[first * 640 : (first + row.frames) * 640])
        greys = np.arange(first, first + row.frames) % 256
        assert np.abs(made.faces(0, row.frames).mean(axis=(1, 2, 3)) - greys).max() < 1.5
        assert (made.header.crop.kind, made.header.crop.pads, made.margin) == ("box", (0, 0, 0, 0), 0)
        assert made.track.boxes.tolist() == [[0, 0, 60 + k % 50, 80] for k in range(first, first + row.frames)]
        assert made.speech.shape == (1 + row.frames * 640 // 200,)
    # The first image is 63 x 80: a side of 71 pixels, times 1.5 is 106, rounded down to 104.
    assert rows[0].size == Clip.open(tmp_path / "c" / rows[0].clip).size == 104
    assert rows[0].side == pytest.approx(math.sqrt(66 * 80))
    assert read_videos(tmp_path / "c" / "videos.csv") == [
        VideoRow("anna/00001", "anna", rows[0].split, "made", "", 10.68, 3, 10.68, pytest.approx(0, abs=60))
    ]
    assert len(open_clips(tmp_path / "c", 5)) == 3


def test_crops_are_stretched_as_the_original_does(tmp_path):
    folder = faces(tmp_path / "w" / "anna" / "1", range(5))
    image = cv2.resize(photo(), (120, 150))
    cv2.imwrite(str(folder / "0.jpg"), image)
    import_wav2lip(tmp_path / "w", tmp_path / "c")
    made = open_clips(tmp_path / "c", 5)[0].faces(0, 1)[0]
    expected = cv2.resize(cv2.imread(str(folder / "0.jpg")), (160, 160))
    assert made.shape == (160, 160, 3)
    assert np.abs(made.astype(int) - expected).mean() < 2  # encoded again


def test_sound_of_any_rate_and_channels_is_cut_by_the_clock(tmp_path):
    samples, rate = speech(4)
    audio = np.stack([np.interp(np.arange(4 * 44100) / 44100, np.arange(len(samples)) / rate, samples)] * 2, axis=1)
    faces(tmp_path / "w" / "anna" / "1", range(50, 100), (audio * 32767).astype(np.int16), 44100)
    import_wav2lip(tmp_path / "w", tmp_path / "c")
    made = open_clips(tmp_path / "c", 5)[0]
    expected = np.interp(np.arange(50 * 640) / 16000 + 2, np.arange(len(samples)) / rate, samples)
    assert np.corrcoef(made.audio, expected)[0, 1] > 0.99
    assert made.audio.std() == pytest.approx(expected.std() * 32768, rel=0.05)
    assert 0 < read_manifest(tmp_path / "c" / "manifest.csv")[0].speech <= 1


@pytest.mark.parametrize(("samples", "frames"), [(9 * 640 + 100, 9), (18 * 640 + 100, 20), (2 * 640, 0)])
def test_pictures_well_beyond_the_sound_are_left_out(tmp_path, samples, frames):
    faces(tmp_path / "w" / "anna" / "1", range(20), ramp(samples))
    assert import_wav2lip(tmp_path / "w", tmp_path / "c") == (frames > 0)
    for made in open_clips(tmp_path / "c") if frames else []:
        assert made.frames == frames
        count = min(samples, frames * 640)
        assert np.array_equal(made.audio[:count], ramp(count))
        assert not made.audio[count:].any()


def test_each_broken_folder_is_told_and_the_rest_goes_on(tmp_path):
    root = tmp_path / "w"
    faces(root / "anna" / "good", range(6))
    (faces(root / "anna" / "holed", range(12)) / "5.jpg").write_bytes(b"not an image")
    (faces(root / "anna" / "silent", range(6)) / "audio.wav").unlink()
    (faces(root / "anna" / "noise", range(6)) / "audio.wav").write_bytes(b"RIFF")
    (root / "anna" / "empty").mkdir()
    faces(root / "anna" / "short", range(4))
    faces(root / "anna" / "gaps", range(0, 40, 2))
    (root / "ben").mkdir()
    (root / "loose.jpg").write_bytes(b"")
    assert import_wav2lip(root, tmp_path / "c") == 3
    outcomes = fates(tmp_path / "c")
    assert {name: fate for name, (fate, _) in outcomes.items()} == {
        "anna/good": "made", "anna/holed": "made", "anna/silent": "broken", "anna/noise": "broken",
        "anna/empty": "broken", "anna/short": "broken", "anna/gaps": "broken", "ben": "broken",
    }  # fmt: skip
    assert outcomes["anna/good"][1] == ""
    assert "5.jpg" in outcomes["anna/holed"][1]
    assert "audio.wav does not exist" in outcomes["anna/silent"][1]
    assert "audio.wav" in outcomes["anna/noise"][1]
    assert outcomes["anna/empty"][1] == "anna/empty holds no images 0.jpg, 1.jpg, ..."
    assert outcomes["anna/gaps"][1] == "it has no 5 consecutively numbered images with audio"
    assert [row.frames for row in read_manifest(tmp_path / "c" / "manifest.csv")] == [6, 5, 6]


def test_nothing_outside_the_folder_is_read(tmp_path):
    outside, root = faces(tmp_path / "secret" / "1", range(6)), tmp_path / "w"
    faces(root / "anna" / "ok", range(6))
    (root / "eve").symlink_to(tmp_path / "secret")
    (root / "anna" / "dir").symlink_to(outside)
    (faces(root / "anna" / "jpg", range(11)) / "5.jpg").unlink()
    (root / "anna" / "jpg" / "5.jpg").symlink_to(outside / "5.jpg")
    for name in ("audio.wav", "clip.json", "track.json"):
        folder = faces(root / "anna" / name[:-4], range(6))
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / "audio.wav")
    (root / "anna" / "loop").symlink_to("loop")
    os.mkfifo(faces(root / "anna" / "pipe", range(6)) / "clip.json")
    (root / "filelists").mkdir()
    lines = ["../secret/1", f"{outside}", "anna/../../secret/1", "anna/ok", "anna/gone", "anna/./jpg/", "nul\0/x"]
    names = ["eve", "anna/dir", "anna/audio", "anna/clip.", "anna/pipe", "anna/loop"]
    (root / "filelists" / "train.txt").write_text("\n".join(f"{line} 0.5" for line in lines + names))
    assert import_wav2lip(root, tmp_path / "c") == 3
    outcomes = fates(tmp_path / "c")
    assert {name for name, (fate, _) in outcomes.items() if fate == "made"} == {"anna/ok", "anna/jpg"}
    leads = {name for name, (_, reason) in outcomes.items() if "points outside the imported folder" in reason}
    assert leads >= {"eve", "anna/dir", "anna/jpg", "anna/audio", "anna/clip.", "../secret/1", f"{outside}"}
    assert outcomes["anna/track."] == ("rejected", "it is in none of the file lists")
    assert all("\n" not in reason for _, reason in outcomes.values())
    (root / "filelists" / "val.txt").symlink_to(outside / "0.jpg")
    with pytest.raises(ValueError, match=r"val\.txt points outside"):
        import_wav2lip(root, tmp_path / "d")


def test_the_file_lists_decide_the_splits(tmp_path):
    root = tmp_path / "w"
    for name in ("a/1", "a/2", "a/3", "b/1", "deep/b/1"):
        faces(root / name, range(5))
    (root / "filelists").mkdir()
    (root / "filelists" / "train.txt").write_text("a/1 0.7\r\n\r\na/2\r\ndeep/b/1\r\n")
    (root / "filelists" / "test.txt").write_text("b/1\na/2\n")
    assert import_wav2lip(root, tmp_path / "c") == 3
    rows = read_manifest(tmp_path / "c" / "manifest.csv")
    assert {(row.video, row.speaker, row.split) for row in rows} == {
        ("a/1", "a", "train"), ("b/1", "b", "test"), ("deep/b/1", "deep/b", "train"),
    }  # fmt: skip
    assert len({row.clip for row in rows}) == 3
    assert fates(tmp_path / "c")["a/2"] == ("rejected", "it is in train.txt and test.txt")
    assert fates(tmp_path / "c")["a/3"] == ("rejected", "it is in none of the file lists")


def test_without_lists_all_of_a_speaker_goes_to_one_split(tmp_path):
    for k in range(30):
        faces(tmp_path / "w" / f"s{k // 2}" / str(k), range(5))
    assert import_wav2lip(tmp_path / "w", tmp_path / "c") == 30
    splits = {(row.speaker, row.split) for row in read_manifest(tmp_path / "c" / "manifest.csv")}
    assert len(splits) == 15
    assert {split for _, split in splits} <= {"train", "val"}


CHANGES = {
    "not json": lambda record: "{",
    "a list": lambda record: [1],
    "deep": lambda record: "[" * 100000,
    "other format": lambda record: record | {"format": "x"},
    "other version": lambda record: record | {"version": "2"},
    "no header": lambda record: record | {"clip": None},
    "frames": lambda record: record | {"clip": record["clip"] | {"frames": 10**9}},
    "frames as text": lambda record: record | {"clip": record["clip"] | {"frames": "8"}},
    "margin": lambda record: record | {"clip": record["clip"] | {"margin": 5}},
    "front-end": lambda record: record | {"clip": record["clip"] | {"audio": {"hop_length": 160}}},
    "crop": lambda record: record | {"clip": record["clip"] | {"crop": {"kind": "x", "size": 48, "pads": []}}},
    "speech": lambda record: record | {"speech_flags": "01"},
    "sync_filter": lambda record: record | {"sync_filter": "dropped"},
    "measure": lambda record: record | {"yaw": "__import__('os')"},
    "lacks": lambda record: {"format": record["format"]},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_strangers_record_is_only_checked_json(tmp_path, change):
    build(tmp_path / "c", [clip(tmp_path / "c", "k", "anna"), clip(tmp_path / "c", "l", "anna")])
    export_wav2lip(tmp_path / "c", tmp_path / "w")
    path = tmp_path / "w" / "anna" / "k" / "clip.json"
    record = change(json.loads(path.read_text()))
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    assert import_wav2lip(tmp_path / "w", tmp_path / "back") == 1
    fate, reason = fates(tmp_path / "back")["anna/k"]
    assert fate == "broken"
    assert "anna/k" in reason
    assert "\n" not in reason


def test_an_import_can_be_run_again_and_keeps_the_screening(tmp_path):
    faces(tmp_path / "w" / "anna" / "1", range(5))
    import_wav2lip(tmp_path / "w", tmp_path / "c")
    rows = read_manifest(tmp_path / "c" / "manifest.csv")
    rows[0].offset, rows[0].sync_filter = 2.0, "offset"
    write_rows(tmp_path / "c" / "manifest.csv", rows)
    faces(tmp_path / "w" / "anna" / "2", range(5))
    assert import_wav2lip(tmp_path / "w", tmp_path / "c") == 2
    assert [row.sync_filter for row in read_manifest(tmp_path / "c" / "manifest.csv")] == ["offset", ""]


def test_import_refuses_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="w is not a folder"):
        import_wav2lip(tmp_path / "w", tmp_path / "c")
    faces(tmp_path / "w" / "anna" / "1", range(5))
    with pytest.raises(ValueError, match="must not contain one another"):
        import_wav2lip(tmp_path / "w", tmp_path / "w" / "c")
    (tmp_path / "c" / "state").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds clips built from videos"):
        import_wav2lip(tmp_path / "w", tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "manifest.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"manifest\.csv is not a table"):
        import_wav2lip(tmp_path / "w", tmp_path / "d")


def test_a_full_disk_ends_an_import_and_leaves_no_manifest(tmp_path, monkeypatch):
    faces(tmp_path / "w" / "anna" / "1", range(5))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("preprocessing.dataset.wav2lip_format.face_folder.write_clip", full)
    with pytest.raises(OSError, match="No space"):
        import_wav2lip(tmp_path / "w", tmp_path / "c")
    assert not (tmp_path / "c" / "manifest.csv").exists()
