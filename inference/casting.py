"""Finds the people that a job names, and gives each of them what they are to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inference.engine import AnalysisProgress, Role, Utterance, job_detector
from inference.files.face_source import FaceSource
from inference.options import Options
from inference.parts import ALL, SPEAKING, Part, in_view, numbered
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.identity import choose, parse_select
from preprocessing.faces.people import Person, find_people

if TYPE_CHECKING:
    from inference.speaking import Speaking

FIND_EVERY = 5  # frames between two runs of the detector
MAX_PEOPLE = 8  # people of one job; each holds inner mouths in memory


@dataclass
class Census:
    """The people in the face video, and who of them speaks; each is computed once, when asked for."""

    source: FaceSource
    options: Options
    progress: AnalysisProgress | None = None

    @cached_property
    def people(self) -> list[Person]:
        """Everybody in the video, by number."""
        every = self.options.detect_every or FIND_EVERY
        frames, fps = self.source.frames(), float(self.source.fps)
        return find_people(frames, job_detector(self.options), fps=fps, every=every, progress=self._show("people"))

    @cached_property
    def speaking(self) -> Speaking | None:
        """Who speaks the video's own sound; None if it has no speech."""
        if self.source.still or not self.source.info.has_audio:
            return None
        from inference.speaking import who_speaks  # here: the sync expert takes seconds to import

        show = self._show("speakers")
        return who_speaks(self.source, self.people, show and (lambda done, _: show(done)))

    def _show(self, unit: str) -> Callable[[int], None] | None:
        if self.progress is None:
            return None
        progress, count = self.progress, self.source.count
        return lambda done: progress(unit, done, max(done, count))

    def speakers(self) -> list[tuple[Person, np.ndarray | None]]:
        """Who speaks, and by source frame when.

        Raises:
            MediaError: nobody does.
        """
        name, speaking = display_path(self.source.path), self.speaking
        if speaking is None:
            raise MediaError(f"{name} has no sound with speech by which to see who speaks: choose by number or place")
        found: list[tuple[Person, np.ndarray | None]] = [
            (person, speaking.active(index)) for index, person in enumerate(self.people) if speaking.seconds(index)
        ]
        if not found:
            raise MediaError(f"nobody in view speaks the sound of {name}: choose by number or place")
        return found


def needs_census(options: Options, parts: Sequence[Part]) -> bool:
    """Whether people must be found before the faces are tracked."""
    return bool(parts) or options.face_id is not None or options.select in (SPEAKING, ALL)


def cast(audio: Path | None, parts: Sequence[Part], options: Options, census: Census) -> tuple[Role, ...]:
    """The roles of a job that `needs_census`.

    Raises:
        UsageError: nobody has the number of a part, or a person is to say two things at once.
        MediaError: nobody is in view or speaks where a part asks for it.
    """
    if not parts:
        assert audio is not None
        parts = (Part(audio, options.select if options.face_id is None else options.face_id),)
    roles: dict[int, _Draft] = {}
    for number, part in enumerate(parts, 1):
        fps = census.source.fps
        first, last = round(part.start * fps), None if part.end is None else round(part.end * fps)
        for person, active in _people(part, number, first, last, census):
            draft = roles.setdefault(person.number, _Draft(person))
            draft.add(Utterance(part.audio, first, last, active), number)
    if len(roles) > MAX_PEOPLE:
        raise UsageError(f"{len(roles)} people are to speak: at most {MAX_PEOPLE} can in one job; choose by number")
    return tuple(Role(tuple(draft.said), draft.person) for draft in roles.values())


@dataclass
class _Draft:
    """A role that is still being written."""

    person: Person
    said: list[Utterance] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)

    def add(self, utterance: Utterance, part: int) -> None:
        """Adds what a part says; where two overlap in time, each person says one of them."""
        for other, number in zip(self.said, self.parts, strict=True):
            both = utterance.active is None and other.active is None
            if both and utterance.first < (other.last or np.inf) and other.first < (utterance.last or np.inf):
                raise UsageError(
                    f"parts {number} and {part} give person {self.person.number} two sounds at the same time: "
                    'set "to" and "from" so that one ends before the other begins'
                )
        self.said.append(utterance)
        self.parts.append(part)


def _people(
    part: Part, number: int, first: int, last: int | None, census: Census
) -> Iterator[tuple[Person, np.ndarray | None]]:  # fmt: skip
    """The people that a part names, and where each of them is active."""
    if part.person == SPEAKING:
        yield from census.speakers()
        return
    if not isinstance(part.person, str):
        numbers = part.person if isinstance(part.person, tuple) else (part.person,)
        yield from ((person, None) for person in numbered(census.people, numbers))
        return
    length = census.source.count
    last = length if last is None or census.source.still else min(last, length)
    shown = list(in_view(census.people, 0 if census.source.still else min(first, length - 1), last))
    if not shown:
        where = f" from {part.start:g} s on" if part.start else ""
        raise MediaError(f"{display_path(census.source.path)} shows no face{where}")
    if part.person == ALL:
        yield from ((person, None) for person, _ in shown)
        return
    yield shown[choose([box for _, box in shown], parse_select(part.person), census.source.size)][0], None
