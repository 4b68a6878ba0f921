"""Frames of the face video in output order."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from inference.files import face_source as source
from inference.files.face_source import FaceSource, Framing
from preprocessing.media.video_writer import VideoWriter


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Ten frames of 64x48; frame k is gray with level 20 k."""
    path = tmp_path_factory.mktemp("video") / "ten.mp4"
    with VideoWriter(path, 64, 48, Fraction(25), crf=4) as writer:
        for k in range(10):
            writer.write(np.full((48, 64, 3), 20 * k, np.uint8))
    return path


def frame_numbers(items) -> list[int]:
    """Frame numbers, checked against the gray levels."""
    numbers, levels = [], []
    for number, frame in items:
        numbers.append(number)
        levels.append(round(float(frame.mean()) / 20))
    assert numbers == levels
    return levels


@pytest.mark.parametrize(
    ("mode", "rest"),
    [
        ("bounce", [8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4]),
        ("loop", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]),
        ("freeze", [9] * 13),
        ("cut", []),
    ],
)
def test_speech_longer_than_video(video, mode, rest, monkeypatch):
    monkeypatch.setattr(source, "BACKWARD_BYTES", 3 * 64 * 48 * 3)  # three frames at once
    assert frame_numbers(FaceSource(video, Framing()).play(23, mode)) == [*range(10), *rest]


def test_video_longer_than_speech(video):
    assert frame_numbers(FaceSource(video, Framing()).play(4, "bounce")) == [0, 1, 2, 3]


def test_static_is_one_frame(video):
    face = FaceSource(video, Framing(), static=True)
    assert face.count == 1
    assert frame_numbers(face.play(5, "cut")) == [0] * 5


def test_start_and_end(video):
    face = FaceSource(video, Framing(), start=0.12, end=0.24)
    levels = [round(float(frame.mean()) / 20) for _, frame in face.play(5, "bounce")]
    assert face.count == 3
    assert levels == [3, 4, 5, 4, 3]


def test_start_after_the_end_is_refused(video):
    with pytest.raises(ValueError, match="after the video's end"):
        FaceSource(video, Framing(), start=3)


def test_framing_in_the_originals_order():
    frame = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    rotated = Framing(rotate=True, crop=(0, 2, 1, -1)).apply(frame)
    assert rotated.shape == (2, 5, 3)
    assert (rotated == np.rot90(frame, -1)[0:2, 1:]).all()
    assert Framing(resize_factor=2).apply(frame).shape == (3, 4, 3)


@pytest.mark.parametrize("crop", [(4, 2, 0, -1), (0, 7, 0, -1), (0, -1, -3, 4), (0, -1, 0, 9)])
def test_crop_outside_is_refused(crop):
    with pytest.raises(ValueError, match="is not inside the frame of 8x6"):
        Framing(crop=crop).apply(np.zeros((6, 8, 3), np.uint8))


@pytest.mark.parametrize("mode", ["bounce", "loop", "freeze", "cut"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_order_is_known_without_decoding(tmp_path, mode, count):
    path = tmp_path / "in.mp4"
    with VideoWriter(path, 64, 48, Fraction(25), crf=4) as writer:
        for k in range(count):
            writer.write(np.full((48, 64, 3), 20 * k, np.uint8))
    source = FaceSource(path, Framing(1, False, (0, -1, 0, -1)))
    assert list(source.order(25, mode, count)) == [number for number, _ in source.play(25, mode)]
