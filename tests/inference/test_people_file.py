"""People found once are given to a later job on the same video, and to no other."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import inference.casting as casting
from inference.casting import Census
from inference.options import Options
from inference.people_file import found_with, recall_people, save_people
from inference.speaking import Speaking
from tests.inference.test_casting import TWO, census

BY_FRAME = np.repeat([1, 0], 50)


@pytest.fixture
def stored(tmp_path) -> Path:
    save_people(tmp_path / "people.npz", census(*TWO, speaking=Speaking(BY_FRAME, Fraction(25))))
    return tmp_path / "people.npz"


@pytest.fixture
def new(monkeypatch) -> Census:
    def search(*_, **__):
        raise AssertionError("people are searched for")

    monkeypatch.setattr(casting, "find_people", search)
    return Census(census().source, Options())


def test_the_same_people_speak_and_nothing_is_searched(stored, new):
    assert recall_people(stored, new)
    for found, expected in zip(new.people, TWO, strict=True):
        assert (found.number, found.length, found.size) == (expected.number, expected.length, expected.size)
        for name in ("boxes", "points", "found", "shot"):
            np.testing.assert_array_equal(getattr(found.track(), name), getattr(expected.track(), name))
    assert new.speaking is not None
    np.testing.assert_array_equal(new.speaking.by_frame, BY_FRAME)


def test_who_speaks_is_left_open_if_it_was_not_found_out(tmp_path, new):
    people = census(*TWO)
    del people.__dict__["speaking"]
    save_people(tmp_path / "people.npz", people)
    assert recall_people(tmp_path / "people.npz", new)
    assert "speaking" not in new.__dict__


@pytest.mark.parametrize("change", [{"start": 1.0}, {"rotate": True}, {"detector": "haar"}])
def test_other_frames_need_a_new_search(stored, new, change):
    assert found_with(stored, Options(strength=0.5))
    new.options = replace(Options(), **change)
    assert not recall_people(stored, new)
    assert "people" not in new.__dict__


@pytest.mark.parametrize("damage", ["cut", "spans", "none"])
def test_a_damaged_file_is_as_none(stored, new, damage):
    if damage == "cut":
        stored.write_bytes(stored.read_bytes()[:-40])
    elif damage == "none":
        stored.unlink()
    else:
        with np.load(stored) as old:
            arrays = dict(old)
        np.savez(stored, **arrays | {"spans": arrays["spans"] + 90})
    assert not recall_people(stored, new)
    assert "people" not in new.__dict__
