"""Clips with early or late audio: the offset in the manifest is corrected when they are read."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing.dataset.clips import Clip, open_clips, write_clip
from preprocessing.dataset.manifest import ClipRow, read_manifest, write_rows
from preprocessing.dataset.windows import CropRegion, face_window, mel_windows, open_splits
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.mel import mel_spectrogram
from tests.material import still_track, write_numbered_clip
from wav2lip.generator.reference_sampling import FramePoses

COUNT = 20
OFFSETS = (-19, -10, -5, -3, -1, 1, 2, 5, 7, 19)


def stored(path: Path) -> Path:
    """Frame k has the value 10 k everywhere; its audio is noise around 1000 k; box k starts at k."""
    values = np.broadcast_to((10 * np.arange(COUNT)).astype(np.uint8)[:, None, None, None], (COUNT, 32, 32, 3))
    rng = np.random.default_rng(0)
    samples = (np.repeat(1000 * np.arange(COUNT), 640) + rng.integers(-100, 100, COUNT * 640)).astype(np.int16)
    clip = Clip.open(write_numbered_clip(path, values, samples, margin=4, flags=rng.random(65) < 0.5))
    track = still_track(COUNT)
    track.boxes += np.arange(COUNT, dtype=np.float32)[:, None]
    track.found[:] = rng.random(COUNT) < 0.5
    header = replace(clip.header, start=2.0)
    write_clip(path, header, clip.jpegs(0, COUNT), clip.audio, track, clip.speech)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("repaired") / "a.safetensors")


@pytest.mark.parametrize("offset", OFFSETS)
def test_every_picture_comes_with_the_sound_that_it_fits(path, offset):
    clip = Clip(path, offset=offset)
    frames = clip.faces(0, clip.frames)[:, 0, 0, 0] // 10
    audio_frames = np.rint(clip.audio.reshape(-1, 640).mean(axis=1) / 1000).astype(int)
    assert len(frames) == clip.frames == COUNT - abs(offset)
    assert (frames.astype(int) - audio_frames == offset).all()
    assert {frames[0], audio_frames[0]} == {0, abs(offset)}
    assert np.array_equal(clip.track.boxes[:, 0] - clip.track.boxes[0, 0], np.arange(clip.frames))
    assert clip.track.boxes[0, 0] == still_track(1).boxes[0, 0] + frames[0]
    assert clip.start == pytest.approx(2.0 + frames[0] / 25)


@pytest.mark.parametrize("offset", OFFSETS)
def test_it_is_the_clip_that_would_be_written_of_what_fits(path, tmp_path, offset):
    whole, repaired, early, late = Clip.open(path), Clip(path, offset=offset), max(-offset, 0), max(offset, 0)
    own = slice(late, late + repaired.frames)
    track = whole.track
    track = FaceTrack(*(values[own] for values in (track.boxes, track.points, track.found, track.shot)), track.size)
    flags = whole.speech[early * 640 // 200 :]  # a column starts every 200 samples; partial columns count
    header = replace(whole.header, frames=repaired.frames)
    write_clip(
        tmp_path / "b.safetensors", header, whole.jpegs(late, repaired.frames), whole.audio[early * 640 :], track, flags
    )
    expected = Clip.open(tmp_path / "b.safetensors")
    for name in ("mel", "speech", "audio"):
        assert np.array_equal(getattr(repaired, name), getattr(expected, name))
        assert getattr(repaired, name).dtype == getattr(expected, name).dtype
    for name in ("boxes", "points", "found", "shot"):
        assert np.array_equal(getattr(repaired.track, name), getattr(expected.track, name))
    assert repaired.jpegs(0, repaired.frames) == expected.jpegs(0, expected.frames)
    assert (repaired.speaker, repaired.size, repaired.margin) == (expected.speaker, expected.size, expected.margin)


def test_the_stored_mel_is_near_that_of_the_moved_sound(path):
    """The correction must not shift video against audio by a fraction of a frame: five frames are 16 columns."""
    whole, repaired = Clip.open(path).mel, Clip(path, offset=-5).mel
    assert np.array_equal(repaired[:, 2:], whole[:, 18:])  # the first two columns reach back before the clip
    assert np.array_equal(repaired, mel_spectrogram(Clip.open(path).audio[3200:]))


def test_windows_are_drawn_out_of_the_repaired_clip(path):
    clip = Clip(path, offset=4)
    faces = face_window(clip, CropRegion(size=24), 3, 2)
    assert faces[:, 12, 12, 0].tolist() == [70, 80]  # frames 7 and 8
    assert np.array_equal(mel_windows(clip.mel, [3]), mel_windows(mel_spectrogram(clip.audio), [3]))
    assert clip.jpegs(1, 3, 2) == Clip.open(path).jpegs(5, 3, 2)


def test_frames_beyond_what_fits_are_refused(path):
    for offset in (4, -4):
        clip = Clip(path, offset=offset)
        assert clip.faces(15, 1).shape == (1, 32, 32, 3)
        for first, count in ((-1, 1), (15, 2), (16, 1)):
            with pytest.raises(ValueError, match=r"a\.safetensors has frames 0 to 15"):
                clip.faces(first, count)
    for offset in (COUNT, -COUNT, 400):
        with pytest.raises(ValueError, match=f"has 20 frames; an offset of {offset} leaves none"):
            _ = Clip(path, offset=offset).mel


def test_it_is_pickled_with_its_offset(path):
    clip = pickle.loads(pickle.dumps(Clip(path, offset=3)))
    assert (clip.frames, clip.faces(0, 1)[0, 0, 0, 0]) == (17, 30)


def test_looks_at_a_clip_are_told_apart_by_its_offset(path):
    poses = [FramePoses.of(Clip(path, offset=offset), [2], 0.4).pose.mean() for offset in (0, 3, -3)]
    assert poses == pytest.approx([20, 50, 20], abs=1)


def row(name: str, **values: object) -> ClipRow:
    return ClipRow(
        f"{name}.safetensors", "a.mp4", 0, 0, 0.0, 0.8, COUNT, "a", **{"split": "train", "size": 24} | values
    )


def listed(folder: Path, *rows: ClipRow) -> Path:
    for each in rows:
        if not (folder / each.clip).exists():
            stored(folder / each.clip)
    write_rows(folder / "manifest.csv", rows)
    return folder


def test_a_manifest_says_what_is_repaired(tmp_path):
    folder = listed(
        tmp_path, row("a", offset=3.0, confidence=0.5, sync_filter="pass"), row("b", offset=-2, sync_filter="pass"),
        row("c", offset=0, sync_filter="pass"), row("d", offset=3), row("e"),
        row("f", offset=9.0, sync_filter="offset"), row("g", sync_filter="short"),
        row("h", offset=1.0, confidence=0.0, sync_filter="confidence"),
    )  # fmt: skip
    found = open_clips(folder)
    assert [(clip.path.stem, clip.offset, clip.frames) for clip in found] == [
        ("a", 3, 17), ("b", -2, 18), ("c", 0, 20), ("d", 0, 20), ("e", 0, 20),
    ]  # fmt: skip
    assert found[0].faces(0, 1)[0, 0, 0, 0] == 30
    assert np.rint(found[1].audio[:640].mean() / 1000) == 2
    assert [clip.frames for clip in open_clips(folder, 18)] == [18, 20, 20, 20]
    (folder / "manifest.csv").unlink()
    assert {(clip.offset, clip.frames) for clip in open_clips(folder)} == {(0, 20)}


def test_nothing_is_held_out_when_the_repair_makes_it_too_short(tmp_path):
    held_out = row("b", split="val", offset=-3.0, sync_filter="pass")
    folder = listed(tmp_path, row("a"), held_out)
    assert [len(some) for some in open_splits(folder, None, 17)] == [1, 1]
    assert [len(some) for some in open_splits(folder, None, 18)] == [1, 0]


def test_frames_left_are_counted_by_the_row():
    counts = [(-4, "pass", 16), (4.0, "pass", 16), (4.0, "offset", 20), (None, "pass", 20), (4.0, "", 20)]
    for offset, verdict, usable in counts:
        assert row("a", offset=offset, sync_filter=verdict).usable_frames == usable
    assert (
        row("a", offset=-3.6, sync_filter="pass").shift == -4
    )  # tables from other programs may hold fractional offsets


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "late"])
def test_an_offset_that_is_no_number_is_refused(tmp_path, text):
    folder = listed(tmp_path, row("a", offset=77.0, sync_filter="pass"))
    table = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(table.replace("77.0", text))
    with pytest.raises(ValueError, match=rf"manifest\.csv is not a table of ClipRow rows: line 2: .*{text}"):
        read_manifest(folder / "manifest.csv")


def test_a_damaged_picture_is_named_as_it_is_asked_for(path, tmp_path):
    data, jpeg = path.read_bytes(), Clip.open(path).jpegs(9, 1)[0]
    assert data.count(jpeg) == 1
    (tmp_path / "a.safetensors").write_bytes(data.replace(jpeg, bytes(len(jpeg))))
    with pytest.raises(ValueError, match=r"damaged in frame 6$"):
        Clip(tmp_path / "a.safetensors", offset=3).faces(5, 3)
