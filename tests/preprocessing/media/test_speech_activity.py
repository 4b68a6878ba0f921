"""Speech and silence: which columns of a recording have speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preprocessing.media.audio import load_audio
from preprocessing.media.mel import mel_spectrogram
from preprocessing.media.speech_activity import rest_in_silence, speech_columns
from tests.preprocessing.media.footage import white_noise

SPEECH = Path(__file__).parents[3] / "assets" / "speech.wav"


def flags(*pieces: tuple[float, float]) -> np.ndarray:
    """Speech flags of noise made of (seconds, dBFS) segments."""
    parts = [white_noise(seconds, dbfs, seed) for seed, (seconds, dbfs) in enumerate(pieces)]
    sound = np.concatenate(parts)
    found = speech_columns(sound)
    assert found.shape == (1 + len(sound) // 200,)
    return found


def share(found: np.ndarray, first: float, last: float) -> float:
    """Fraction of speech between seconds `first` and `last`."""
    return float(found[round(first * 80) : round(last * 80)].mean())


def test_a_pause_is_silence_and_a_short_one_is_not():
    found = flags((1, -20), (0.5, -80), (1, -20), (0.1, -80), (1, -20))
    assert share(found, 1.1, 1.4) == 0
    assert share(found, 0, 1) == 1
    assert share(found, 1.5, 3.6) == 1


def test_speech_is_widened_by_the_margin():
    edges = np.flatnonzero(np.diff(flags((1, -20), (1, -90), (1, -20)).astype(int)))
    # The level is that of 50 ms, so speech shows two columns beyond its end, and five (0.06 s) more by the margin.
    assert abs(edges[0] - (80 + 2 + 5)) <= 1
    assert abs(edges[1] - (160 - 2 - 5)) <= 1


def test_a_quiet_ending_belongs_to_speech_and_a_quiet_sound_alone_does_not():
    # Loud parts at -20 dBFS: speech ends below -58 and begins above -52, so -55 only goes on with speech.
    found = flags((1, -20), (0.4, -55), (0.6, -75), (0.4, -55), (0.6, -75), (1, -20))
    assert share(found, 1.05, 1.35) == 1
    assert share(found, 1.55, 2.85) == 0


@pytest.mark.parametrize("room", [-75, -62, -50, -45])
def test_room_noise_is_no_speech(room):
    found = flags((1, -20), (1, room), (1, -20))
    assert share(found, 1.15, 1.85) == 0
    assert share(found, 0, 1) == 1


def test_noise_near_the_speech_cannot_be_told_from_it():
    assert flags((1, -20), (1, -36), (1, -20)).all()


def test_all_loud_and_all_silent():
    assert flags((2, -20)).all()
    assert not flags((2, -65)).any()
    assert not speech_columns(np.zeros(16000)).any()
    assert not speech_columns(np.full(16000, np.nan)).any()


def test_a_quiet_recording_is_judged_by_its_own_loudness():
    found = flags((1, -45), (1, -90), (1, -45))
    assert share(found, 0, 1) == 1
    assert share(found, 1.1, 1.9) == 0


@pytest.mark.parametrize("samples", [1, 150, 400, 1000, 1400, 16000])
def test_there_is_one_flag_for_each_column(samples):
    sound = white_noise(1)[:samples]
    found = speech_columns(sound)
    assert found.shape == (mel_spectrogram(sound).shape[1],)
    assert found.all()


def test_the_pauses_of_real_speech_are_found():
    found = speech_columns(load_audio(SPEECH))
    # Its card: silence in 0.00-0.40, 2.44-3.24 and 4.96-5.39 s.
    assert [share(found, *span) for span in ((0, 0.3), (2.54, 3.14), (5.07, 5.4))] == [0, 0, 0]
    assert [share(found, *span) for span in ((0.42, 2.42), (3.26, 4.94))] == [1, 1]


def test_rest_in_silence_silences_only_silence():
    mel = np.arange(12, dtype=np.float32).reshape(2, 6) / 4
    speech = np.array([True, False, True, True, False, False])
    rest = rest_in_silence(mel, speech)
    assert rest.tolist() == [[0, -4, 0.5, 0.75, -4, -4], [1.5, -4, 2, 2.25, -4, -4]]
    assert rest.dtype == np.float32
    assert mel[0, 1] == 0.25
