"""Parts of a job: who is meant, and what is refused."""

from __future__ import annotations

from array import array
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inference.casting import MAX_PEOPLE, Census, cast
from inference.options import Options
from inference.parts import Part
from inference.speaking import Speaking
from preprocessing.errors import MediaError, UsageError
from preprocessing.faces.people import Appearance, Person

SOUND = Path("a.wav")


def somebody(number: int, x: float, first: int = 0, last: int = 100) -> Person:
    """A person of 20x20 pixels at x in frames [first, last) of 100."""
    boxes = array("f", [x, 50, x + 20, 70] * (last - first))
    return Person(number, 100, (400, 100), [Appearance(first, 0, boxes, array("f", [0] * 10 * (last - first)))])


def census(*people: Person, speaking: Speaking | None = None) -> Census:
    source = SimpleNamespace(path=Path("talk.mp4"), fps=Fraction(25), count=100, size=(400, 100), still=False)
    found = Census(source, Options())
    found.__dict__ |= {"people": list(people), "speaking": speaking}  # in place of the cached properties
    return found


TWO = somebody(1, 300), somebody(2, 100)


def numbers(*parts: Part, options: Options | None = None, people: Census | None = None) -> list[int]:
    roles = cast(SOUND if not parts else None, parts, options or Options(), people or census(*TWO))
    return [role.person.number for role in roles]


@pytest.mark.parametrize(
    ("person", "found"),
    [(1, [1]), ("left", [2]), ("right", [1]), ("310,60", [1]), ("all", [1, 2]), ((2, 1), [2, 1])],
)
def test_who_is_meant(person, found):
    assert numbers(Part(SOUND, person)) == found


def test_flags_of_the_command():
    assert numbers(options=Options(face_id=2)) == [2]
    assert numbers(options=Options(select="all")) == [1, 2]


def test_only_people_in_view_at_that_time_are_meant():
    people = census(somebody(1, 100, 0, 50), somebody(2, 300, 40, 100))
    assert numbers(Part(SOUND, "left", 0, 1), people=people) == [1]
    assert numbers(Part(SOUND, "left", 2.2, 3), people=people) == [2]
    assert numbers(Part(SOUND, "all", 1.7, 1.9), people=people) == [1, 2]


def test_the_speakers_share_one_sound():
    speaking = Speaking(np.array([0] * 50 + [1] * 50), Fraction(25))
    first, second = cast(None, [Part(SOUND, "speaking")], Options(), census(*TWO, speaking=speaking))
    (one,), (other,) = first.utterances, second.utterances
    assert one.active[:50].min() == 1
    assert other.active[50:].min() == 1
    assert np.allclose(one.active[56:], 0)
    assert 0 < one.active[52] < 1


def test_parts_of_one_person_follow_each_other():
    parts = [Part(SOUND, 1, 0.4, 1.2), Part(Path("b.wav"), 1, 1.2, 2), Part(SOUND, 2, 1, 3)]
    first, second = cast(None, parts, Options(), census(*TWO))
    assert [(said.audio.name, said.first, said.last) for said in first.utterances] == [
        ("a.wav", 10, 30), ("b.wav", 30, 50)
    ]  # fmt: skip
    assert [(said.first, said.last) for said in second.utterances] == [(25, 75)]


SILENT = Speaking(np.full(100, -1), Fraction(25))


@pytest.mark.parametrize(
    ("parts", "people", "message"),
    [
        ([Part(SOUND, 3)], census(*TWO), "this video shows 2 people, 1 and 2: nobody has the number 3"),
        ([Part(SOUND, 2)], census(TWO[0]), "shows 1 person, with the number 1: nobody has the number 2"),
        ([Part(SOUND, 1)], census(), "shows nobody"),
        ([Part(SOUND, "all")], census(*(somebody(n, 30 * n) for n in range(1, MAX_PEOPLE + 2))), "9 people"),
        ([Part(SOUND, "left", 3)], census(somebody(1, 0, 0, 50)), "shows no face from 3 s on"),
        ([Part(SOUND, "speaking")], census(*TWO), "has no sound with speech"),
        ([Part(SOUND, "speaking")], census(*TWO, speaking=SILENT), "nobody in view speaks"),
        ([Part(SOUND, 1, 0, 2), Part(SOUND, 1, 1, 3)], census(*TWO), "parts 1 and 2 give person 1 two sounds"),
        ([Part(SOUND, 1), Part(SOUND, "all", 1, 3)], census(*TWO), "parts 1 and 2 give person 1 two sounds"),
    ],
)
def test_refusals(parts, people, message):
    with pytest.raises((UsageError, MediaError)) as error:
        cast(None, parts, Options(), people)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
