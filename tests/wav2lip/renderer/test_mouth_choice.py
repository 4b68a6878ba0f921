"""Mouth selection: the path through the bank."""

import itertools

import numpy as np
import pytest

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import HeadPose
from tests.wav2lip.renderer.faces import frame, opened, pose, shut_face
from wav2lip.renderer.inner_mouth import InnerMouth, crop_mouth
from wav2lip.renderer.mouth_choice import MouthChooser, MouthTarget, choose_mouths, viterbi
from wav2lip.renderer.renderer import mouth_target

HEIGHTS = [8, 10, 8, 4, 0, 0, 3, 4, 3, 0, 0, 9, 10]  # units; closed in frames 4, 5, 9, 10


def entry(height: float, number: int, darker: int = 1) -> InnerMouth:
    points = pose().repose(shut_face() + opened(height))
    made = crop_mouth(frame() // darker, points, HeadPose.of(points), number)
    assert made is not None
    return made


def targets() -> list[MouthTarget]:
    head = pose()
    return [mouth_target(head, head.repose(shut_face() + opened(height))) for height in HEIGHTS]


def test_viterbi_finds_the_cheapest_of_all_paths() -> None:
    rng = np.random.default_rng(3)
    costs, switches = rng.random((6, 3)), rng.random((6, 3, 3)) * 0.5
    price = {
        path: sum(costs[t, state] for t, state in enumerate(path))
        + sum(switches[t, path[t - 1], path[t]] for t in range(1, 6))
        for path in itertools.product(range(3), repeat=6)
    }
    assert tuple(viterbi(costs, switches)) == min(price, key=price.__getitem__)


def test_mouths_that_look_different_switch_where_lips_are_shut() -> None:
    entries = [entry(10, 1), entry(4, 2, darker=3)]
    chosen = [mouth.number for mouth in choose_mouths(targets(), entries) if mouth]
    assert chosen[:4] == [1] * 4
    assert chosen[6:9] == [2] * 3
    assert chosen[11:] == [1, 1]
    switches = [t for t in range(1, len(chosen)) if chosen[t] != chosen[t - 1]]
    assert all(min(HEIGHTS[t], HEIGHTS[t - 1]) == 0 for t in switches)


def test_mouths_that_look_alike_follow_the_shape() -> None:
    entries = [entry(10, 1), entry(4, 2)]
    chosen = [mouth.number for mouth in choose_mouths(targets(), entries) if mouth]
    assert chosen[:4] == [1, 1, 1, 2]


def test_a_long_look_ahead_chooses_as_the_whole_sequence_does() -> None:
    entries = [entry(10, 1), entry(4, 2, darker=3)]
    chooser, stream = MouthChooser(lookahead=len(HEIGHTS)), []
    for target in targets():
        stream += chooser.push(target, entries)
    stream += chooser.flush(entries)
    whole = choose_mouths(targets(), entries)
    heights = np.array(HEIGHTS) > 0
    assert [a for a, seen in zip(stream, heights, strict=True) if seen] == [
        b for b, seen in zip(whole, heights, strict=True) if seen
    ]


def test_push_lags_by_the_look_ahead() -> None:
    chooser, entries = MouthChooser(lookahead=3), [entry(10, 1)]
    counts = [len(chooser.push(target, entries)) for target in targets()]
    assert counts == [0] * 3 + [1] * (len(HEIGHTS) - 3)
    assert len(chooser.flush(entries)) == 3


def test_an_entry_that_left_the_bank_is_shown_on_while_the_mouth_is_open() -> None:
    chooser, old, new = MouthChooser(), entry(9, 1), entry(9, 2)
    chooser.push(targets()[0], [old])
    assert chooser.push(targets()[1], [new]) == [old]


def test_without_a_bank_there_is_no_mouth() -> None:
    assert choose_mouths(targets(), []) == [None] * len(HEIGHTS)
    assert MouthChooser().push(targets()[0], []) == [None]


def test_a_negative_look_ahead_is_refused() -> None:
    with pytest.raises(UsageError, match="lookahead"):
        MouthChooser(lookahead=-1)
