"""Clips: round trip, partial reads, and rejection of foreign, truncated and damaged files."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pickle
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from preprocessing.dataset import clips
from preprocessing.dataset.clips import Clip, ClipDraft, ClipHeader, encode, open_clips, speaker_weights, write_clip
from preprocessing.dataset.manifest import ClipRow, write_rows
from preprocessing.faces.crops import CropGeometry
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.audio import AudioConfig, mel_spectrogram, speech_columns
from tests.material import change_clip, photo, still_track, write_numbered_clip

COUNT = 20


def numbered(count: int = COUNT, side: int = 32) -> np.ndarray:
    """Frame k has the value 10 k everywhere, which JPEG keeps."""
    values = (10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, side, side, 3)).copy()


def write(path: Path, count: int = COUNT, **options: Any) -> Path:
    return write_numbered_clip(path, numbered(count), margin=4, **options)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-20000, 20000, count * 640).astype(np.int16)


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["clip"])


def change_header(path: Path, **values: Any) -> None:
    record = header_of(path) | values
    change_clip(path, {"format": "wav2lip-clip", "version": "1", "clip": json.dumps(record)})


def offset_of(path: Path, name: str) -> int:
    """Byte offset of a tensor in the file, as the format defines it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return 8 + length + json.loads(data[8 : 8 + length])[name]["data_offsets"][0]


def test_everything_comes_back_as_written(tmp_path):
    path, samples = tmp_path / "a.safetensors", noise(COUNT)
    header = ClipHeader(
        source='b/a "x"\n\udcff.mp4', sha256="ab" * 32, start=61.48, frames=COUNT, speaker="Änne", language="de",
        licence="CC BY 4.0", person=1, crop=CropGeometry("box", 24, (1, 2, 3, 4)), margin=4, versions={"numpy": "2"},
    )  # fmt: skip
    track = still_track(COUNT)
    track.found[7] = False
    track.boxes[7], track.points[7] = np.nan, np.nan
    flags = np.arange(65) % 3 == 0
    write_clip(path, header, [encode(face, 100) for face in numbered()], samples, track, flags)
    clip = Clip.open(path)
    assert clip.header == replace(header, picture=(160, 160))
    assert (clip.path, clip.speaker, clip.frames, clip.margin, clip.size) == (path, "Änne", COUNT, 4, 24)
    assert clip.audio.dtype == np.int16
    assert np.array_equal(clip.audio, samples)
    assert clip.speech.dtype == bool
    assert np.array_equal(clip.speech, flags)
    assert np.array_equal(clip.faces(0, COUNT), numbered())
    back = clip.track
    assert isinstance(back, FaceTrack)
    for name in ("boxes", "points", "found", "shot"):
        assert np.array_equal(getattr(back, name), getattr(track, name), equal_nan=True)
        assert getattr(back, name).dtype == getattr(track, name).dtype
    assert (back.size, back.fps) == ((160, 160), "25")


def test_the_mel_is_that_of_the_clips_own_sound(tmp_path):
    audio = 0.3 * np.sin(np.arange(COUNT * 640) ** 1.3 / 50)
    clip = Clip.open(write(tmp_path / "a.safetensors", samples=audio))
    assert clip.mel.dtype == np.float32
    assert clip.mel.shape == (80, 1 + COUNT * 640 // 200)
    assert clip.speech.shape == (65,)
    assert np.array_equal(clip.mel, mel_spectrogram(clip.audio))
    assert np.array_equal(clip.mel, mel_spectrogram(clip.audio.astype(np.float32) / 32768))
    assert np.abs(clip.audio / 32768 - audio).max() <= 0.5 / 32768


def test_sound_is_made_as_long_as_the_pictures(tmp_path):
    long = noise(COUNT + 1)
    for name, samples in (("long", long), ("short", long[: COUNT * 640 - 300])):
        path = write(tmp_path / f"{name}.safetensors", samples=samples, flags=np.ones(1 + len(samples) // 200, bool))
        audio, flags = Clip.open(path).audio, Clip.open(path).speech
        kept = min(len(samples), COUNT * 640)
        assert len(audio) == COUNT * 640
        assert len(flags) == 65
        assert np.array_equal(audio[:kept], long[:kept])
        assert not audio[kept:].any()
        assert flags[: 1 + kept // 200].all()
        assert not flags[1 + kept // 200 :].any()


def test_loud_and_impossible_samples_are_bounded(tmp_path):
    samples = np.zeros(COUNT * 640)
    samples[:5] = 1.0, -1.0, 7.0, -math.inf, math.nan
    clip = Clip.open(write(tmp_path / "a.safetensors", samples=samples))
    assert clip.audio[:6].tolist() == [32767, -32768, 32767, -32768, 0, 0]


@pytest.mark.parametrize(
    ("first", "count", "step", "expected"),
    [(0, 1, 1, [0]), (7, 5, 1, [7, 8, 9, 10, 11]), (3, 4, 2, [3, 5, 7, 9]), (1, 3, 9, [1, 10, 19]), (19, 1, 1, [19])],
)
def test_a_window_is_those_frames(tmp_path, first, count, step, expected):
    clip = Clip.open(write(tmp_path / "a.safetensors"))
    window = clip.faces(first, count, step)
    assert window.dtype == np.uint8
    assert np.array_equal(window, numbered()[expected])
    assert clip.jpegs(first, count, step) == [encode(numbered()[k], 100) for k in expected]


@pytest.mark.parametrize(("first", "count", "step"), [(-1, 2, 1), (16, 5, 1), (0, 0, 1), (0, 2, 0), (0, 3, 10)])
def test_a_window_outside_the_clip_is_refused(tmp_path, first, count, step):
    clip = Clip.open(write(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match=r"a\.safetensors has frames 0 to 19"):
        clip.faces(first, count, step)


def test_a_window_is_read_without_the_rest(tmp_path, monkeypatch):
    clip = Clip.open(write_numbered_clip(tmp_path / "a.safetensors", np.repeat(photo()[None], 30, axis=0)))
    read = []

    class Slice:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getitem__(self, key: slice) -> np.ndarray:
            read.append(self.inner[key].nbytes)
            return self.inner[key]

    class File:
        def __init__(self, *arguments: Any) -> None:
            self.inner = safe_open(*arguments)

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: Any) -> None:
            self.inner.__exit__(*_)

        def get_slice(self, name: str) -> Slice:
            return Slice(self.inner.get_slice(name))

    monkeypatch.setattr(clips, "safe_open", File)
    for step in (1, 4):
        read.clear()
        jpegs = clip.jpegs(3, 5, step)
        assert sum(read) - sum(map(len, jpegs)) <= 20 * (5 * step + 1)  # only their offsets and checksums


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


def test_a_name_of_any_kind_can_be_written_and_read(tmp_path):
    for name in ("new\nline", "quo'te\"", "\udcff", "ü " * 20):
        assert np.array_equal(Clip.open(write(tmp_path / name / f"{name}.safetensors")).faces(5, 1), numbered()[5:6])


def test_a_written_clip_is_one_file_readable_like_any_other(tmp_path):
    path = write(tmp_path / "a.safetensors")
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "plain"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_no_clip_and_keeps_the_old_one(tmp_path, monkeypatch, call):
    path = write(tmp_path / "old.safetensors")
    seen = []

    def fail(*_: Any) -> None:
        seen.extend(open_clips(tmp_path))  # another process lists the clips at this moment
        raise OSError("disk full")

    monkeypatch.setattr(clips.os, call, fail)
    for name in ("old.safetensors", "new.safetensors"):
        with pytest.raises(OSError, match="disk full"):
            write(tmp_path / name, 25)
    assert [(clip.path, clip.frames) for clip in seen] == [(path, COUNT)] * 2
    assert list(tmp_path.rglob("*")) == [path]


def test_views_are_written_as_they_look(tmp_path):
    track, samples, flags = still_track(2 * COUNT), noise(2 * COUNT), np.arange(130) % 5 == 0
    track.boxes += np.arange(2 * COUNT, dtype=np.float32)[:, None]
    half = FaceTrack(*(values[::-2] for values in (track.boxes, track.points, track.found, track.shot)))
    head = ClipHeader("a.mp4", "", 0.0, COUNT, crop=CropGeometry("points", 24), margin=4)
    jpegs = [encode(face[::-1, :, ::-1]) for face in numbered()]
    write_clip(tmp_path / "a.safetensors", head, jpegs, samples[::2], half, flags[::2])
    clip = Clip.open(tmp_path / "a.safetensors")
    assert np.array_equal(clip.audio, samples[::2])
    assert np.array_equal(clip.speech, flags[::2])
    assert np.array_equal(clip.track.boxes, half.boxes)


def test_a_picture_is_encoded_well_and_a_quality_checked():
    def error(quality: int) -> float:
        back = cv2.imdecode(np.frombuffer(encode(photo(), quality), np.uint8), cv2.IMREAD_COLOR)
        return float(np.abs(back.astype(int) - photo()).mean())

    assert error(95) < 2.5  # gray levels
    assert error(95) < error(60)
    assert len(encode(photo(), 60)) < len(encode(photo()))
    for quality in (0, 101):
        with pytest.raises(ValueError, match=f"1 to 100, not {quality}"):
            encode(photo(), quality)


def test_a_draft_writes_what_it_was_given(tmp_path):
    draft = ClipDraft()
    for face in numbered():
        draft.add(encode(face))
    head = ClipHeader("a.mp4", "", 0.0, COUNT, crop=CropGeometry("points", 24), margin=4)
    draft.write(tmp_path / "a.safetensors", head, noise(COUNT), still_track(COUNT), speech_columns(noise(COUNT)))
    assert np.array_equal(Clip.open(tmp_path / "a.safetensors").faces(0, COUNT), numbered())


def _read_in_a_process(clip: Clip) -> tuple[int, list[int], float]:
    return os.getpid(), clip.faces(6, 3)[:, 0, 0, 0].tolist(), float(clip.mel.sum())


def test_a_clip_is_read_from_two_processes_at_once(tmp_path):
    clip = Clip.open(write(tmp_path / "a.safetensors"))
    sum_ = float(clip.mel.sum())
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map(_read_in_a_process, [clip] * 8, chunksize=1)
    assert os.getpid() not in {pid for pid, _, _ in results}
    assert [rest for _, *rest in results] == [[[60, 70, 80], sum_]] * 8


def test_a_pickled_clip_is_small_and_the_same(tmp_path):
    clip = Clip.open(write(tmp_path / "a.safetensors"))
    for one in (clip, Clip(clip.path)):
        data = pickle.dumps(one)
        assert len(data) < 3000
        assert np.array_equal(pickle.loads(data).faces(3, 2), numbered()[3:5])


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
