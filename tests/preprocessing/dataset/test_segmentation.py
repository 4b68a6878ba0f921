"""Segmentation of videos into clips."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.dataset.segmentation import FRAME_SAMPLES, cut_run, face_runs, frames_with_audio
from preprocessing.faces.face_track import FaceTrack


def track(found: str, shots: str) -> FaceTrack:
    flags = np.array([letter == "x" for letter in found])
    count = len(flags)
    numbers = np.array([int(letter) for letter in shots], np.int32)
    return FaceTrack(np.zeros((count, 4), np.float32), np.zeros((count, 5, 2), np.float32), flags, numbers)


def test_gaps_and_cuts_end_a_run():
    assert face_runs(track("xx.xxxxx..", "0000011122"), 10) == [(0, 2), (3, 5), (5, 8)]
    assert face_runs(track("xxxx", "0000"), 3) == [(0, 3)]
    assert face_runs(track("....", "0011"), 4) == []
    assert face_runs(track("xxxx", "0000"), 0) == []


@pytest.mark.parametrize(
    ("samples", "frames"), [(50 * 640, 50), (60 * 640, 50), (50 * 640 - 1600, 50), (50 * 640 - 1601, 47), (100, 0)]
)
def test_the_picture_ends_with_the_sound_unless_that_is_nearly_as_long(samples, frames):
    assert frames_with_audio(50, samples) == frames


def test_a_long_run_is_cut_in_the_pause_near_the_even_cut():
    samples = np.full(500 * FRAME_SAMPLES, 8000, np.int16)
    samples[238 * FRAME_SAMPLES : 242 * FRAME_SAMPLES] = 5
    samples[100 * FRAME_SAMPLES : 104 * FRAME_SAMPLES] = 0  # quieter, but far from the middle
    assert cut_run(10, 460, samples, 1, 10) == [(10, 240), (240, 460)]


@pytest.mark.parametrize("level", [0, 8000])
def test_without_a_pause_pieces_are_even(level):
    samples = np.full(1000 * FRAME_SAMPLES, level, np.int16)
    assert cut_run(0, 300, samples, 1, 4) == [(0, 100), (100, 200), (200, 300)]
    assert cut_run(7, 107, samples, 1, 4) == [(7, 107)]


def test_pieces_cover_the_run_and_keep_their_limits():
    random = np.random.default_rng(0)
    samples = (random.normal(size=4000 * FRAME_SAMPLES) * 1000).astype(np.int16)
    for _ in range(200):
        shortest = float(random.uniform(0.2, 2))
        longest = shortest * float(random.uniform(2, 6))
        first = int(random.integers(0, 100))
        last = first + int(random.integers(np.ceil(shortest * 25), 900))
        pieces = cut_run(first, last, samples, shortest, longest)
        assert [a for a, _ in pieces] == [first, *(b for _, b in pieces[:-1])]
        assert pieces[-1][1] == last
        assert all(shortest <= (b - a) / 25 <= longest for a, b in pieces)
