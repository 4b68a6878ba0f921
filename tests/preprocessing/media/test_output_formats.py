"""WebM with Opus, and animated pictures, whose files say what they are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from preprocessing.media.audio_mux import AudioSource
from preprocessing.media.video_writer import VideoWriter
from tests.material import SIDE, moving_photo, pictures_of, sound_of, write_sound

MARK = "AI-generated: one < two & three. " * 10  # longer than one block of a GIF's comment
COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    tone = write_sound(folder / "tone.wav", 0.3 * np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000))
    for ending in (".webm", ".gif", ".webp"):
        with VideoWriter(
            folder / f"out{ending}", SIDE, SIDE, Fraction(25), sounds=[AudioSource(tone)], metadata={"comment": MARK}
        ) as writer:
            for picture in moving_photo(COUNT):
                writer.write(picture)
    return folder


def test_webm_is_vp9_with_opus_in_time(folder):
    with av.open(str(folder / "out.webm")) as container:
        assert "vp9" in container.streams.video[0].codec_context.name
        assert "opus" in container.streams.audio[0].codec_context.name
        assert {name.lower(): text for name, text in container.metadata.items()}["comment"] == MARK
    pictures = pictures_of(folder / "out.webm")
    assert len(pictures) == COUNT
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, moving_photo(COUNT), strict=True)]
    assert max(errors) < 5
    sound = sound_of(folder / "out.webm")
    assert len(sound) / 16000 == pytest.approx(COUNT / 25, abs=0.05)
    spectrum = np.abs(np.fft.rfft(sound[1600:6400]))
    assert np.argmax(spectrum) * 16000 / 4800 == pytest.approx(440, abs=5)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_animated_pictures_keep_colors_and_time(folder, ending):
    with Image.open(folder / f"out{ending}") as image:
        assert (image.n_frames, image.size) == (COUNT, (SIDE, SIDE))
        assert image.info.get("loop", 0) == 0
        for number, picture in enumerate(moving_photo(COUNT)):
            image.seek(number)
            shown = np.asarray(image.convert("RGB"))[..., ::-1].astype(int)
            assert np.abs(shown - picture).mean() < 8
            assert image.info["duration"] == 40


def test_animated_pictures_carry_the_mark(folder):
    with Image.open(folder / "out.gif") as image:
        assert image.info["comment"].decode() == MARK
    with Image.open(folder / "out.webp") as image:
        assert MARK.replace("&", "&amp;").replace("<", "&lt;") in image.info["xmp"].decode()
