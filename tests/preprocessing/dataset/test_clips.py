"""Clips: round trip, partial reads, writing, and reading from several processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors import safe_open

from preprocessing.dataset import clips
from preprocessing.dataset.clips import Clip, ClipDraft, ClipHeader, encode, open_clips, write_clip
from preprocessing.faces.crops import CropGeometry
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.mel import mel_spectrogram
from preprocessing.media.speech_activity import speech_columns
from tests.material import photo, still_track, write_numbered_clip
from tests.preprocessing.dataset.clip_material import COUNT, noise, numbered, write


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
