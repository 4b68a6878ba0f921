"""Clips in the original's layout: what is written, bit-exact round trip, names, and what is refused."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors import safe_open

from preprocessing.dataset.clips import Clip
from preprocessing.dataset.manifest import read_manifest, read_videos
from preprocessing.dataset.wav2lip_format import conversion as upstream
from preprocessing.dataset.wav2lip_format.conversion import export_wav2lip, import_wav2lip
from preprocessing.dataset.wav2lip_format.face_folder import safe_name
from tests.preprocessing.dataset.wav2lip_format.material import build, clip, fates, ramp, write_wav


def contents(path: Path) -> tuple[dict, dict]:
    """Metadata, and the bytes, dtype and shape of every tensor."""
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return file.metadata(), {name: (x.dtype, x.shape, x.tobytes()) for name, x in tensors.items()}


def test_an_exported_clip_lies_as_the_original_reads_it(tmp_path):
    row = build(tmp_path / "c", [clip(tmp_path / "c", "talk-1a2b3c4d__a0002", "anna", "val")])[0]
    assert export_wav2lip(tmp_path / "c", tmp_path / "w") == 1
    folder, made = tmp_path / "w" / "anna" / "talk-1a2b3c4d__a0002", Clip.open(tmp_path / "c" / row.clip)
    assert sorted(p.name for p in folder.glob("*.jpg")) == sorted(f"{k}.jpg" for k in range(8))
    assert [(folder / f"{k}.jpg").read_bytes() for k in range(8)] == made.jpegs(0, 8)
    assert cv2.imread(str(folder / "7.jpg")).shape == (60, 60, 3)
    with wave.open(str(folder / "audio.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 16000, 8 * 640)
        assert np.array_equal(np.frombuffer(file.readframes(9999), "<i2"), made.audio)
    lists = {split: (tmp_path / "w" / "filelists" / f"{split}.txt").read_text() for split in ("train", "val", "test")}
    assert lists == {"train": "", "val": "anna/talk-1a2b3c4d__a0002\n", "test": ""}


def test_there_and_back_is_the_same_bit_for_bit(tmp_path):
    speakers = {"a1": "anna", "b1": "a/b", "b2": "a_b", "c1": "ø ü\n'\"", "d1": "..", "e1": "filelists", "f1": ""}
    clips = tmp_path / "c"
    rows = build(
        clips,
        [clip(clips, n, s, ("train", "val", "test")[k % 3], 6 + k) for k, (n, s) in enumerate(speakers.items())],
    )
    assert export_wav2lip(clips, tmp_path / "w") == import_wav2lip(tmp_path / "w", tmp_path / "back") == 7
    back = {Path(row.clip).stem: row for row in read_manifest(tmp_path / "back" / "manifest.csv")}
    for row in rows:
        again = back[Path(row.clip).stem]
        assert contents(tmp_path / "back" / again.clip) == contents(clips / row.clip)
        assert repr(replace(again, clip=row.clip)) == repr(row)  # by repr, since nan is not nan
    assert back["a1"].clip == "clips/anna/a1.safetensors"
    folders = {row.video.split("/")[0] for row in read_videos(tmp_path / "back" / "videos.csv")}
    assert len(folders) == len(speakers)
    assert all(row.fate == "made" and row.clips == 1 for row in read_videos(tmp_path / "back" / "videos.csv"))


def test_names_stay_apart_and_are_safe_everywhere():
    names = ["a/b", "a_b", "a b", "a:b", "..", ".", "", "-", "a.", "x" * 300, "x" * 301, "ä", "ö", "a\nb", "filelists"]
    made = [safe_name(name) for name in names]
    made += [safe_name(name) for name in made]  # a name that looks like a changed one is changed again
    fresh = {safe_name(name) for name in names if name != "a_b"}
    assert safe_name("a_b") == "a_b"
    assert len(fresh) == len(names) - 1
    assert not fresh & {safe_name(name) for name in fresh}
    for name in made:
        assert len(name) <= 80
        assert name[0] not in ".-"
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_only_clips_that_pass_are_exported(tmp_path):
    rows = [clip(tmp_path, f"k{k}", "anna") for k in range(4)]
    rows[1].reason, rows[2].sync_filter, rows[3].sync_filter = "side+yaw", "offset", ""
    rows.append(replace(rows[0], clip="", reason="speech"))
    build(tmp_path, rows)
    assert export_wav2lip(tmp_path, tmp_path.parent / "w") == 2
    assert (tmp_path.parent / "w" / "filelists" / "train.txt").read_text() == "anna/k0\nanna/k3\n"
    assert sorted(p.name for p in (tmp_path.parent / "w" / "anna").iterdir()) == ["k0", "k3"]


def test_an_export_that_was_stopped_is_run_again(tmp_path, monkeypatch):
    rows = build(tmp_path / "c", [clip(tmp_path / "c", f"k{k}", "anna") for k in range(3)])
    true, calls = upstream._export_clip, []

    def stop(path, row, folder):
        if len(calls) == 1:
            folder.mkdir()
            (folder / "0.jpg").write_bytes(b"half")
            raise KeyboardInterrupt
        calls.append(row)
        true(path, row, folder)

    monkeypatch.setattr(upstream, "_export_clip", stop)
    with pytest.raises(KeyboardInterrupt):
        export_wav2lip(tmp_path / "c", tmp_path / "w")
    assert [p.name for p in (tmp_path / "w" / "anna").iterdir()] == ["k0"]
    assert not (tmp_path / "w" / "filelists").exists()
    monkeypatch.undo()
    for _ in range(2):  # also over a complete export
        assert export_wav2lip(tmp_path / "c", tmp_path / "w") == 3
        assert len(list((tmp_path / "w" / "anna" / "k1").iterdir())) == rows[1].frames + 3
        assert not (tmp_path / "w" / ".unfinished").exists()


def test_export_refuses_in_one_line(tmp_path):
    build(tmp_path / "c", [clip(tmp_path / "c", "k", "anna", "")])
    with pytest.raises(ValueError, match="clip splits must be train, val, test, not ''"):
        export_wav2lip(tmp_path / "c", tmp_path / "w")
    row = build(tmp_path / "c", [clip(tmp_path / "c", "k", "anna")])[0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "filelists").write_text("precious")
    with pytest.raises(ValueError, match="holds files other than exported clips"):
        export_wav2lip(tmp_path / "c", tmp_path / "mine")
    with pytest.raises(ValueError, match="is a file; a folder is needed"):
        export_wav2lip(tmp_path / "c", tmp_path / "mine" / "filelists")
    for inside in (tmp_path / "c", tmp_path / "c" / "w", tmp_path):
        with pytest.raises(ValueError, match="must not contain one another"):
            export_wav2lip(tmp_path / "c", inside)
    (tmp_path / "c" / row.clip).write_bytes(b"")
    with pytest.raises(ValueError, match=r"k\.safetensors is not a prepared clip"):
        export_wav2lip(tmp_path / "c", tmp_path / "w")
    build(tmp_path / "c", [replace(row, reason="side")])
    with pytest.raises(ValueError, match="has no clip that passes"):
        export_wav2lip(tmp_path / "c", tmp_path / "w")
    assert (tmp_path / "mine" / "filelists").read_text() == "precious"


@pytest.mark.parametrize("name", ["0.jpg", "7.jpg", "audio.wav", "track.json"])
def test_an_exported_folder_that_was_changed_is_refused(tmp_path, name):
    build(tmp_path / "c", [clip(tmp_path / "c", "k", "anna")])
    export_wav2lip(tmp_path / "c", tmp_path / "w")
    folder = tmp_path / "w" / "anna" / "k"
    for data in (None, b"", b"{}", cv2.imencode(".jpg", np.zeros((61, 60, 3), np.uint8))[1].tobytes()):
        (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
        assert import_wav2lip(tmp_path / "w", tmp_path / "back") == 0
        fate, reason = fates(tmp_path / "back")["anna/k"]
        assert fate == "broken"
        assert reason
    write_wav(folder / "audio.wav", ramp(640))
    assert import_wav2lip(tmp_path / "w", tmp_path / "back") == 0
