"""What the original made of sounds, and recordings that several tests read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.preprocessing.media.footage import numbered_video, run_ffmpeg, save_wav
from tests.preprocessing.media.written import CLICKS


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    """What the original made of sounds."""
    with np.load(shared / "reference/golden/audio.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def steady(tmp_path_factory) -> Path:
    """25 frames at 25 fps, numbered."""
    return numbered_video(tmp_path_factory.mktemp("media") / "steady.mp4", [n / 25 for n in range(25)])


@pytest.fixture(scope="session")
def tone(tmp_path_factory) -> Path:
    """A second of 440 Hz."""
    path = tmp_path_factory.mktemp("media") / "tone.wav"
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:d=1", path)
    return path


@pytest.fixture(scope="session")
def clicks(tmp_path_factory) -> Path:
    """Two seconds of 16 kHz with a click of 2 ms at each of CLICKS."""
    samples = np.zeros(32000)
    for time in CLICKS:
        samples[round(time * 16000) :][:32] = 0.6
    return save_wav(tmp_path_factory.mktemp("sound") / "clicks.wav", samples)
