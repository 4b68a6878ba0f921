"""Who says what and when: the parts of a job, and the people chosen for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.identity import SIDES, parse_select
from preprocessing.faces.people import Person

SPEAKING, ALL = "speaking", "all"  # whoever speaks the video's own sound; everybody in view
KEYS = ("person", "audio", "from", "to", "keep_audio")


@dataclass(frozen=True)
class Part:
    """A sound that a person is to say in a part of the video.

    Attributes:
        audio: the file with the speech.
        person: a person's number as listed by `--list-faces`, several numbers, or "speaking", "all", "largest", "left",
            "right", "center" or pixels "X,Y".
        start, end: seconds of the output in which the sound is heard, from its beginning; None: to the sound's end.
        keep_audio: gain of the video's own sound meanwhile; 0: none.
    """

    audio: Path
    person: int | str | tuple[int, ...] = "largest"
    start: float = 0.0
    end: float | None = None
    keep_audio: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "audio", Path(self.audio))
        numbers = self.person if isinstance(self.person, tuple) else (self.person,)
        if isinstance(self.person, str):
            if self.person not in (SPEAKING, ALL):
                parse_select(self.person)
        elif not numbers or not all(type(number) is int and number >= 1 for number in numbers):
            raise UsageError(f"person must be a number from 1, numbers, or {words()}, not {self.person!r}")
        if not 0 <= self.start < 1e7 or (self.end is not None and not self.start < self.end < 1e7):
            end = "" if self.end is None else f" to {self.end:g}"
            raise UsageError(f"a part must begin at 0 s or later and end after that, not {self.start:g}{end}")
        if not 0 <= self.keep_audio <= 4:
            raise UsageError(f"keep_audio must be between 0 and 4, not {self.keep_audio:g}")

    @classmethod
    def of(cls, values: object, folder: Path) -> Part:
        """A part from a job file's values; relative paths start at `folder`.

        Raises:
            UsageError: a value is missing, unknown or wrong.
        """
        if not isinstance(values, Mapping):
            raise UsageError(f"a part must have {', '.join(KEYS)}, not {values!r}")
        if unknown := [str(name) for name in values if name not in KEYS]:
            raise UsageError(f"unknown entry {unknown[0]!r}; known: {', '.join(KEYS)}")
        if not isinstance(values.get("audio"), str) or not values["audio"]:
            raise UsageError("audio is missing: the file with the speech")
        person = values.get("person", "largest")
        numbers = {
            name: _seconds(name, values[name]) for name in ("from", "to", "keep_audio") if values.get(name) is not None
        }
        return cls(
            folder / values["audio"], tuple(person) if isinstance(person, list) else person, numbers.get("from", 0.0),
            numbers.get("to"), numbers.get("keep_audio", 0.0),
        )  # fmt: skip


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} must be a number, not {value!r}")
    return float(value)


def words() -> str:
    """The words that choose a person, for messages."""
    return ", ".join((SPEAKING, ALL, *SIDES, "X,Y"))


def numbered(people: Sequence[Person], numbers: Sequence[int]) -> list[Person]:
    """The people with these numbers.

    Raises:
        UsageError: nobody has one of them.
    """
    known = {person.number: person for person in people}
    for number in numbers:
        if number not in known:
            raise UsageError(f"this video shows {_listed(list(known))}: nobody has the number {number}")
    return [known[number] for number in numbers]


def _listed(numbers: list[int]) -> str:
    if not numbers:
        return "nobody"
    if len(numbers) == 1:
        return "1 person, with the number 1"
    if len(numbers) > 4:
        return f"{len(numbers)} people, {numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)} people, {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def in_view(people: Sequence[Person], first: int, last: int) -> Iterator[tuple[Person, np.ndarray]]:
    """The people visible in source frames [first, last), each with the median box (4,) there."""
    for person in people:
        boxes = [
            np.array(part.boxes).reshape(-1, 4)[max(0, first - part.first) : max(0, last - part.first)]
            for part in person.appearances
        ]
        shown = np.concatenate(boxes)
        if len(shown):
            yield person, np.median(shown, axis=0)
