"""Mel spectrograms: parity with the original and librosa, block by block, and the windows of frames."""

from __future__ import annotations

import json
import re
from fractions import Fraction

import librosa
import numpy as np
import pytest
import torch

from preprocessing.media.audio import AudioConfig, frame_count
from preprocessing.media.mel import _log_mel, mel_spectrogram, mel_window
from preprocessing.media.speech_activity import _level_db, speech_columns
from tests.preprocessing.media.footage import white_noise

RATES = [Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, 60, Fraction(12345, 1000)]


def test_mel_is_the_originals(golden):
    mel = mel_spectrogram(golden["wav16k"].astype(np.float32) / 32768)
    assert mel.dtype == np.float32
    assert mel.shape == (80, 241)
    assert np.abs(mel - golden["mel_reflect"]).max() < 1e-3
    assert np.abs(mel - golden["mel_constant"])[:, :2].max() > 0.1  # the padding is part of the contract


@pytest.mark.parametrize("samples", [801, 1000, 16000, 37123])
def test_mel_agrees_with_librosa_on_noise(samples):
    x = np.random.default_rng(samples).normal(0, 0.1, samples)
    emphasised = np.append(x[0], x[1:] - 0.97 * x[:-1])
    spectrum = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, pad_mode="reflect"))
    basis = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    level = 20 * np.log10(np.maximum(1e-5, basis @ spectrum)) - 20
    expected = np.clip(8 * (level + 100) / 100 - 4, -4, 4)
    assert mel_spectrogram(x) == pytest.approx(expected, abs=1e-3)


def test_the_block_size_changes_nothing():
    sound = white_noise(3)
    whole = mel_spectrogram(sound)
    for block in (1, 7, 100, 240, 241):
        assert np.abs(mel_spectrogram(sound, block=block) - whole).max() < 1e-5


LENGTHS = [1, 2, 3, 199, 200, 399, 400, 401, 799, 800, 801, 4000, 33333]


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("block", [7, 4000])
def test_the_mel_is_bit_for_bit_that_of_the_whole_signal_at_once(samples, block):
    sound, config = white_noise(3)[:samples], AudioConfig()
    x = np.append(sound[:1], sound[1:] - np.float32(0.97) * sound[:-1])
    x = np.pad(x, 400, mode="reflect")
    columns = 1 + samples // 200
    spans = [x[first * 200 : (min(first + block, columns) - 1) * 200 + 800] for first in range(0, columns, block)]
    expected = np.concatenate([_log_mel(torch.from_numpy(span), config).numpy() for span in spans], axis=1)
    assert np.array_equal(mel_spectrogram(sound, block=block), expected)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("block", [7, 4000])
def test_the_level_is_that_of_the_whole_signal_at_once(samples, block):
    sound = np.concatenate([white_noise(1, -20), white_noise(1, -70), white_noise(1, -40)])[:samples]
    energy = np.concatenate(([0.0], np.cumsum(sound.astype(np.float64) ** 2)))
    centre = np.arange(1 + samples // 200) * 200
    first, last = np.clip(centre - 400, 0, samples), np.clip(centre + 400, 0, samples)
    expected = 10 * np.log10(np.maximum((energy[last] - energy[first]) / np.maximum(last - first, 1), 1e-12))
    assert _level_db(sound, AudioConfig(), block) == pytest.approx(expected, abs=1e-6)


def test_sixteen_bits_on_disk_and_floats_in_memory_are_the_same_sound(tmp_path):
    numbers = (np.concatenate([white_noise(1), np.zeros(16000), white_noise(0.7)]) * 32768).astype(np.int16)
    floats = numbers.astype(np.float32) / 32768
    disk = np.memmap(tmp_path / "a.raw", np.int16, mode="w+", shape=numbers.shape)
    disk[:] = numbers
    for same in (numbers, disk, floats.astype(np.float64)):
        assert np.array_equal(mel_spectrogram(same), mel_spectrogram(floats))
        assert np.array_equal(speech_columns(same), speech_columns(floats))
    assert 0 < speech_columns(disk).mean() < 1


@pytest.mark.parametrize("samples", [1, 2, 199, 200, 399, 400, 401, 799, 800])
def test_a_short_sound_has_its_columns(samples):
    mel = mel_spectrogram(white_noise(1)[:samples])
    assert mel.shape == (80, 1 + samples // 200)
    assert np.isfinite(mel).all()


def test_silence_is_the_lowest_value_and_broken_samples_count_as_silence():
    assert (mel_spectrogram(np.zeros(4000)) == -4).all()
    assert (mel_spectrogram(np.full(4000, np.nan)) == -4).all()
    sound = white_noise(0.5)
    broken, zeroed = sound.copy(), sound.copy()
    broken[[10, 2000, 5000]] = np.nan, np.inf, -np.inf
    zeroed[[10, 2000, 5000]] = 0
    assert (mel_spectrogram(broken) == mel_spectrogram(zeroed)).all()


def test_a_tone_lights_its_own_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    centres = librosa.mel_frequencies(82, fmin=55, fmax=7600)[1:-1]
    assert np.argmax(mel_spectrogram(tone)[:, 40]) == np.argmin(np.abs(centres - 1000))


def ramp(columns: int) -> np.ndarray:
    """A mel whose values are its column indices."""
    return np.tile(np.arange(columns, dtype=np.float32), (80, 1))


def first_column(mel: np.ndarray, time: Fraction | float, lead: Fraction) -> int:
    window = mel_window(mel, time, lead=lead)
    assert window.shape == (80, 16)
    assert (window[0] == window[0, 0] + np.arange(16)).all()
    return int(window[0, 0])


def test_windows_start_where_the_original_starts_them(shared):
    cases = json.loads((shared / "reference/golden/chunks.json").read_text())
    assert {case["fps"] for case in cases} >= {15.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0}
    for case in cases:
        mel = ramp(case["mel_columns"])
        ours = [first_column(mel, i / case["fps"], Fraction(0)) for i in range(case["n_chunks"] - 1)]
        assert ours == case["starts"][:-1]  # the original's last chunk is another one, the last 16 columns
        exact = Fraction(case["fps"]).limit_denominator(1001)
        assert [first_column(mel, i / exact, Fraction(0)) for i in range(case["n_chunks"] - 1)] == ours


def test_windows_are_those_of_the_originals_training_data(shared, golden):
    mel = golden["mel_reflect"].astype(np.float32)
    with np.load(shared / "reference/golden/generator.npz") as gold:
        starts, windows = gold["start_frame5"], gold["mel5"]
    for start, five in zip(starts, windows, strict=True):
        for k in range(5):
            assert np.array_equal(mel_window(mel, Fraction(int(start) + k, 25)), five[k, 0])


def test_the_experts_windows_are_the_originals(shared, golden):
    mel = golden["mel_reflect"].astype(np.float32)
    with np.load(shared / "reference/golden/syncnet.npz") as gold:
        for start, window in zip(gold["start_frame"], gold["mel"], strict=True):
            assert np.array_equal(mel_window(mel, Fraction(int(start), 25), lead=Fraction(0)), window[0])


def test_windows_by_hand():
    mel = ramp(100)
    assert first_column(mel, Fraction(10, 25), Fraction(0)) == 32  # 80 x 0.4
    assert first_column(mel, Fraction(10, 25), Fraction(1, 25)) == 28  # 80 x 0.36 = 28.8
    assert first_column(mel, 0.36, Fraction(1, 25)) == 25  # 80 x 0.32 = 25.6
    assert first_column(mel, 1.0, Fraction(1, 25)) == 76  # 80 x 0.96 = 76.8


def test_beyond_both_ends_lies_silence():
    mel = ramp(20)
    start = mel_window(mel, Fraction(0))[0]  # from column floor(-3.2) = -4
    assert start.tolist() == [-4] * 4 + list(range(12))
    end = mel_window(mel, Fraction(12, 80), lead=Fraction(0))[0]
    assert end.tolist() == [*range(12, 20), *[-4] * 8]
    for time in (-1000, -0.3, 0.26, 1000):
        assert (mel_window(mel, time, lead=Fraction(0)) == -4).all()
    assert mel_window(ramp(3), 0.0, lead=Fraction(0))[0].tolist() == [0, 1, 2] + [-4] * 13


def test_a_window_is_a_copy():
    mel = ramp(40)
    mel_window(mel, 0.2)[:] = 9
    assert mel.max() == 39


@pytest.mark.parametrize("fps", RATES)
def test_fractions_and_floats_of_a_time_meet_the_same_column(fps):
    mel, fps = ramp(1000), Fraction(fps)
    for k in range(4, int(12 * fps)):
        expected = (80 * (k / fps - Fraction(1, 25))).__floor__()
        assert first_column(mel, k / fps, Fraction(1, 25)) == expected
        assert first_column(mel, k / float(fps), Fraction(1, 25)) == expected


@pytest.mark.parametrize("fps", RATES)
def test_seconds_give_their_frames(fps):
    fps = Fraction(fps)
    for seconds in (1, 2, 3, 7, 10, 61, 3600):
        assert frame_count(seconds * 16000, fps) == round(seconds * fps)
    assert frame_count(1, fps) == 1


def test_frames_by_hand():
    assert frame_count(160000, Fraction(25)) == 250
    assert frame_count(160000, Fraction(30000, 1001)) == 300  # 299.7
    assert frame_count(16320, Fraction(25)) == 26  # 25.5, to the even number
    assert frame_count(44100, Fraction(25), AudioConfig(sample_rate=44100, hop_length=551)) == 25


def test_a_foreign_front_end_is_refused_naming_both_values():
    AudioConfig().require(AudioConfig(), "clip")
    AudioConfig().require({"hop_length": 200}, "clip")
    with pytest.raises(ValueError, match=re.escape("a.pt was made with hop_length = 160, expected 200")):
        AudioConfig().require(AudioConfig(hop_length=160), "a.pt")
    with pytest.raises(ValueError, match=r"fmax is 7600\.0 Hz, above half the sample rate of 8000 Hz"):
        AudioConfig(sample_rate=8000)
    assert AudioConfig().columns_per_second == 80
