"""The speech of a job: memory that does not grow with its length."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from inference.files.speech import BLOCK, BlockwiseMel, Speech, read_speech
from preprocessing.media.audio import AudioConfig
from preprocessing.media.mel import mel_spectrogram, mel_window
from preprocessing.media.speech_activity import rest_in_silence, speech_columns
from tests.material import write_sound

CONFIG, FPS = AudioConfig(), Fraction(25)
STATUS = Path("/proc/self/status")


def test_windows_are_those_of_the_whole_mel(tmp_path):
    rng = np.random.default_rng(0)
    bursts = np.repeat([0, 1, 0, 1, 1, 0], 4 * 16000)
    samples = 0.1 * rng.standard_normal(len(bursts)) * bursts
    sound = write_sound(tmp_path / "a.wav", samples)
    speech, stored = Speech.load(sound, FPS, CONFIG), read_speech(sound)
    whole = rest_in_silence(mel_spectrogram(stored), speech_columns(stored))
    assert whole.shape[1] > 2 * BLOCK
    for frame in (*range(0, speech.frames + 9, 3), 2):  # beyond the end there is silence; back again, too
        expected = mel_window(whole, Fraction(frame) / FPS)[None]
        assert speech.window(frame) == pytest.approx(expected, abs=1e-4)


def test_without_rest_noise_stays():
    noise = (30 * np.random.default_rng(0).standard_normal(16000)).astype(np.int16)
    mel = BlockwiseMel(noise, CONFIG, None)
    assert mel[:, 10:20] == pytest.approx(mel_spectrogram(noise)[:, 10:20], abs=1e-4)
    assert mel[3:5, 200:].shape == (2, 0)


@pytest.mark.skipif(not STATUS.is_file(), reason="reads Linux's account of the process")
def test_a_mapped_sound_does_not_stay_in_memory(tmp_path):
    minutes = 4
    sound = np.memmap(tmp_path / "a.raw", np.int16, "w+", shape=minutes * 60 * 16000)
    sound[::1000] = 3000
    sound.flush()
    sound = np.memmap(tmp_path / "a.raw", np.int16, "r")
    before = mapped_kilobytes()
    mel = BlockwiseMel(sound, CONFIG, speech_columns(sound))
    for first in range(0, minutes * 60 * 80, BLOCK):
        mel[:, first : first + 1]
    assert mapped_kilobytes() - before < sound.nbytes / 1024 / 4


def mapped_kilobytes() -> int:
    """Resident pages of mapped files."""
    return int(next(line for line in STATUS.read_text().splitlines() if line.startswith("RssFile")).split()[1])
