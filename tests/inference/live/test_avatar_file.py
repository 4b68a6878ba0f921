"""Saved avatars: they come back as they were, and a damaged or hostile file does nothing but fail."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from inference.files.face_source import FaceSource, Framing
from inference.live.avatar import Avatar
from inference.live.avatar_file import open_avatar, save_avatar
from inference.options import Options
from inference.pipeline import LipSync
from preprocessing.errors import MediaError, UsageError
from tests.inference.live.material import RATE, frames, noise, session


def spoken(engine, avatar: Avatar) -> list:
    live = session(engine, avatar)
    live.push(noise(1), RATE)
    return [frame.frame for frame in frames(live, 12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, avatar, video):
    """An avatar that embeds its frames, and one that refers to the video beside it."""
    path = tmp_path_factory.mktemp("saved, 'ä")
    shutil.copy(video, path / "anna.mp4")
    save_avatar(avatar, path / "anna.avatar")
    beside = Avatar(
        avatar.frames, avatar.fps, avatar.landmarks, avatar.mouths, type(avatar.origin)(path / "anna.mp4", True)
    )
    save_avatar(beside, path / "light.avatar", embed=False)
    return path


def test_an_avatar_beside_its_video_shows_the_same_frames_bit_for_bit(engine, avatar, folder):
    opened = open_avatar(folder / "light.avatar")
    assert len(opened) == len(avatar) == 16
    assert all(
        np.array_equal(one, two) for one, two in zip(spoken(engine, opened), spoken(engine, avatar), strict=True)
    )
    opened.close()


def test_an_avatar_with_its_frames_needs_no_video_and_shows_nearly_the_same(engine, avatar, folder, tmp_path):
    alone = shutil.copy(folder / "anna.avatar", tmp_path / "anna.avatar")
    opened = LipSync(engine).avatar(alone)
    pairs = list(zip(spoken(engine, opened), spoken(engine, avatar), strict=True))
    errors = [np.abs(one.astype(int) - two.astype(int)).mean() for one, two in pairs]
    assert max(errors) < 2.5
    opened.close()


def test_a_photo_is_kept_without_loss(engine, portrait, tmp_path):
    save_avatar(portrait, tmp_path / "anna.avatar")
    opened = open_avatar(tmp_path / "anna.avatar")
    assert np.array_equal(opened.frames[0], portrait.frames[0])
    assert len(opened.mouths) == len(portrait.mouths)
    opened.close()


def test_live_opens_a_saved_avatar_and_refuses_options_for_it(engine, folder):
    with LipSync(engine).live(folder / "anna.avatar", sample_rate=RATE) as live:
        assert len(frames(live, 2)) == 2
    with pytest.raises(UsageError, match="prepared already"):
        LipSync(engine).live(folder / "anna.avatar", select="left")


def changed(folder, tmp_path, header=None, **arrays):
    """A copy of the embedded avatar with some values replaced; None removes an array."""
    with safe_open(folder / "anna.avatar", framework="numpy") as file:
        metadata = file.metadata()
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fields = json.loads(metadata["header"])
    fields["config"] |= header or {}
    values = {name: value for name, value in (values | arrays).items() if value is not None}
    save_file(values, tmp_path / "bad.avatar", metadata=metadata | {"header": json.dumps(fields)})
    return tmp_path / "bad.avatar"


@pytest.mark.parametrize(
    ("header", "arrays"),
    [
        ({"frames": 17}, {}),
        ({"frames": 10**9}, {}),
        ({"frames": "16"}, {}),
        ({"size": [160, 161]}, {}),
        ({"size": [10**6, 10**6]}, {}),
        ({"size": 160}, {}),
        ({"fps": "1/0"}, {}),
        ({"fps": "25; import os"}, {}),
        ({}, {"points": np.zeros((16, 206, 3), np.float64)}),
        ({}, {"points": np.full((16, 206, 3), np.nan, np.float32)}),
        ({}, {"presence": np.full(16, -1, np.float32)}),
        ({}, {"presence": np.ones(15, np.float32)}),
        ({}, {"video": None}),
        ({}, {"mouth.0.pixels": np.zeros((9, 9), np.uint8)}),
        ({}, {"mouth.0.pixels": np.zeros((900, 900, 3), np.uint8)}),
        ({}, {"mouths.ring": np.zeros((1, 19, 2))}),
        ({"source": {"name": "../anna.mp4", "sha256": ""}}, {}),
        ({"source": {"name": "/etc/passwd", "sha256": ""}}, {}),
        ({"source": {"name": "http://127.0.0.1:9/anna.mp4", "sha256": ""}}, {}),
        ({"source": "anna.mp4"}, {}),
    ],
)
def test_a_damaged_avatar_is_refused(folder, tmp_path, header, arrays):
    with pytest.raises(UsageError, match="damaged"):
        open_avatar(changed(folder, tmp_path, header, **arrays))


def test_embedded_frames_that_are_no_video_are_refused(folder, tmp_path):
    playlist = np.frombuffer(b"ffconcat version 1.0\nfile /etc/passwd\n", np.uint8)
    with pytest.raises(MediaError):
        open_avatar(changed(folder, tmp_path, video=playlist))


def test_a_video_that_is_missing_or_has_changed_is_refused(folder, tmp_path):
    light = shutil.copy(folder / "light.avatar", tmp_path / "light.avatar")
    with pytest.raises(MediaError, match="beside"):
        open_avatar(light)
    (tmp_path / "anna.mp4").write_bytes((folder / "anna.mp4").read_bytes() + b"x")
    with pytest.raises(MediaError, match="is not the file"):
        open_avatar(light)


@pytest.mark.parametrize("data", [b"", b"not a file of tensors", b"\x80\x04\x95cos\nsystem\n"])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "x.avatar").write_bytes(data)
    with pytest.raises(UsageError):
        open_avatar(tmp_path / "x.avatar")


def test_frames_that_were_changed_or_lie_elsewhere_must_be_embedded(engine, avatar, video, tmp_path):
    with pytest.raises(UsageError, match="beside"):
        save_avatar(avatar, tmp_path / "anna.avatar", embed=False)
    small = Avatar.prepare(engine, FaceSource(video, Framing(), end=0.2), Options(detector="haar"))
    assert len(small) == 5
    part = Avatar.prepare(engine, FaceSource(video, Framing(), start=0.2), Options(detector="haar"))
    with pytest.raises(UsageError, match="must embed"):
        save_avatar(part, video.parent / "part.avatar", embed=False)
    small.close()
    part.close()


def test_a_generator_has_no_live_sessions(folder):
    with pytest.raises(UsageError, match="without a checkpoint"):
        LipSync(object()).live(folder / "anna.avatar")
