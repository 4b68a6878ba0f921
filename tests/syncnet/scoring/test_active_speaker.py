"""Who speaks when, from distances with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from syncnet.offset import REACH
from syncnet.scoring.active_speaker import NOBODY, speakers
from syncnet.scoring.video_scoring import ScoredTrack

FRAMES = 200
SPEECH = np.ones(FRAMES * 80 // 25, bool)


def person(speaks: list[tuple[int, int]], seen: list[tuple[int, int]] = ((0, FRAMES),), offset: int = 0, seed: int = 0):
    """Distances around 0.9, and 0.5 at the offset where the person speaks; `seen`: frames [first, last)."""
    starts = np.concatenate([np.arange(first, last - 4) for first, last in seen])
    distances = np.random.default_rng(seed).normal(0.9, 0.1, (len(starts), 2 * REACH + 1)).astype(np.float32)
    for first, last in speaks:
        distances[(starts + 2 >= first) & (starts + 2 < last), REACH + offset] -= 0.4
    return ScoredTrack(starts, distances, int(starts[0]), int(starts[-1]) + 5)


def changes(chosen: np.ndarray) -> list[tuple[int, int]]:
    """(first frame, who) of each stretch."""
    edges = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist()]
    return [(edge, int(chosen[edge])) for edge in edges]


@pytest.mark.parametrize("offset", [0, -6])
def test_two_people_take_turns(offset):
    people = [person([(0, 90)], offset=offset), person([(90, FRAMES)], offset=offset, seed=1)]
    (start, first), (turn, second) = changes(speakers(people, SPEECH, FRAMES))
    assert (start, first, second) == (0, 0, 1)
    assert abs(turn - 90) <= 8


def test_a_voice_from_outside_the_picture_is_nobodys():
    assert set(speakers([person([]), person([], seed=1)], SPEECH, FRAMES)) == {NOBODY}


def test_nobody_speaks_while_out_of_view():
    people = [person([(0, FRAMES)], seen=[(0, 60), (140, FRAMES)]), None]
    chosen = speakers(people, SPEECH, FRAMES)
    assert set(chosen[:55]) == set(chosen[145:]) == {0}
    assert set(chosen[65:135]) == {NOBODY}


def test_a_short_interjection_does_not_change_the_speaker():
    people = [person([(0, 100), (104, FRAMES)]), person([(100, 104)], seed=1)]
    assert set(speakers(people, SPEECH, FRAMES)) == {0}


def test_silence_decides_nothing():
    quiet = SPEECH.copy()
    quiet[:] = False
    assert len(speakers([person([(0, FRAMES)])], quiet, FRAMES)) == FRAMES
    assert speakers([], quiet, 0).tolist() == []
