"""The output's sound: speech at its time, and the video's own sound around it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inference.files.soundtrack import audio_sources, timed_parts
from inference.options import Options
from inference.parts import Part
from preprocessing.media.sound.mux import AudioSource
from preprocessing.media.video_writer import VideoWriter
from tests.material import sound_of, write_sound, write_speech

RATE = 16000


def film(path: Path, seconds: float = 10.0) -> SimpleNamespace:
    """A source whose own sound is the file `path`."""
    info = SimpleNamespace(has_audio=True, is_image=False)
    count = round(seconds * 25)
    return SimpleNamespace(path=path, info=info, count=count, fps=Fraction(25), start=0.0, end=None, still=False)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return write_sound(tmp_path_factory.mktemp("own") / "own.wav", np.full(10 * RATE, 0.1))


def gains(parts: list[Part], own: Path, keep: float = 0.0) -> list[tuple[float, float, float]]:
    """(from, to, gain) of the video's own sound."""
    sounds = audio_sources(None, parts, film(own), Options(keep_audio=keep))[len(parts) :]
    assert all(sound.at == sound.start and sound.duration for sound in sounds)
    return [(sound.at, round(sound.at + (sound.duration or 0), 6), sound.gain) for sound in sounds]


def test_the_own_sound_stays_outside_the_parts(own):
    parts = [Part(own, 1, 2, 4), Part(own, 2, 3, 5, keep_audio=0.3)]
    assert gains(parts, own) == [(0, 2, 1), (3, 4, 0.3), (4, 5, 0.3), (5, 10, 1)]
    assert gains(parts[:1], own, 0.2) == [(0, 2, 1), (2, 4, 0.2), (4, 10, 1)]
    assert gains([Part(own, 1, 0, 12)], own) == []


def test_a_part_ends_with_its_sound(tmp_path, own):
    speech = write_speech(tmp_path / "a.wav", 1.5)
    parts = timed_parts([Part(speech, 1, 2), Part(speech, 1, 4, 5), Part(speech, 1, 6, 9)], film(own))
    assert [part.end for part in parts] == pytest.approx([3.5, 5, 7.5])


def test_sounds_begin_at_their_time(tmp_path):
    """A constant in the middle of another: the sum is known at every moment."""
    one, two = (write_sound(tmp_path / f"{n}.wav", np.full(2 * RATE, level)) for n, level in ((1, 0.1), (2, 0.3)))
    sounds = [AudioSource(one, fade=0.01), AudioSource(two, duration=0.5, at=1.0, gain=0.5)]
    with VideoWriter(tmp_path / "out.mkv", 32, 32, Fraction(25), sounds=sounds) as writer:
        for _ in range(50):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    sound = sound_of(tmp_path / "out.mkv")
    levels = [sound[int(second * RATE) :][:800].mean() for second in (0.3, 0.9, 1.1, 1.4, 1.6)]
    assert np.allclose(levels, [0.1, 0.1, 0.25, 0.25, 0.1], atol=0.03)
