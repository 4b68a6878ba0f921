"""What each protocol makes of a list of pairs: the takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluation.protocols.pairs import Pair, is_own, speaker_of
from evaluation.report.results import MATCHED, PROTOCOLS, SECONDS, SILENT, SWAPPED
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.audio import AudioConfig, load_audio, speech_columns

SPOKEN = 0.5  # share of speech in a sound that is given to others


@dataclass(frozen=True)
class Trial:
    """A video to make: a face and what it is to speak in one protocol.

    Attributes:
        pair: its name, unique within the protocol.
        protocol: of `evaluation.report.results.PROTOCOLS`.
        face: the video.
        audio: the sound to speak, None: silence.
        speaker: who is seen.
        sound_of: whose sound that is, "" for silence.
        own: the face's own sound, usually the face's file.
        other: another's sound, for what is out of sync on purpose; None where the list has nobody else's.
        listed: whether this face with this sound stands in the list.
    """

    pair: str
    protocol: str
    face: Path
    audio: Path | None
    speaker: str
    sound_of: str
    own: Path
    other: Path | None = None
    listed: bool = False


@dataclass
class _Face:
    """A face of the list, once however often it stands there."""

    name: str
    path: Path
    speaker: str
    own: Path
    with_own: bool = False  # stands in the list with its own sound
    others: list[Pair] = field(default_factory=list)  # stands there with these
    donor: _Face | None = None  # whose sound it is given where it stands with its own alone

    @property
    def other(self) -> Path | None:
        if self.others:
            return self.others[0].audio
        return self.donor.own if self.donor else None


def trials(pairs: Sequence[Pair], protocols: Iterable[str], seconds: float = SECONDS) -> list[Trial]:
    """What is to be made, all of a face's together, always the same for the same list.

    * matched, silent, stills: each face once, with its own sound, none, and its own.
    * swapped: the listed pairs whose sound is not the face's own. A face that is listed with its own sound alone is
      given that of another speaker's face: of those taken least often so far the next one in the list. Files with
      little speech in their first `seconds`, or without sound, are given to nobody while there are others.

    A sound is the face's own if it is the same file, or of the same name in the same folder (a.mp4 and a.wav).

    Raises:
        UsageError: there is no such protocol, or sounds are to be swapped and there is no other person.
    """
    protocols = tuple(protocols)
    for name in protocols:
        if name not in PROTOCOLS:
            raise UsageError(f"a protocol is one of {', '.join(PROTOCOLS)}, not {name!r}")
    faces = _faces(pairs)
    _give_sounds(list(faces.values()), seconds, needed=SWAPPED in protocols)
    return [take for face in faces.values() for protocol in protocols for take in _takes(face, protocol, faces)]


def _faces(pairs: Sequence[Pair]) -> dict[str, _Face]:
    """By their real paths, in the list's order."""
    faces: dict[str, _Face] = {}
    for pair in pairs:
        speaker = pair.speaker or speaker_of(pair.face)
        face = faces.setdefault(os.path.realpath(pair.face), _Face(pair.name, pair.face, speaker, pair.face))
        if not is_own(pair.face, pair.audio):
            face.others.append(pair)
        elif not face.with_own:
            face.name, face.own, face.with_own = pair.name, pair.audio, True
    return faces


def _give_sounds(faces: Sequence[_Face], seconds: float, needed: bool) -> None:
    """Gives a donor to each face without another's sound."""
    spoken = [_speech(face.own, seconds) for face in faces]
    choices = {}
    for index, face in enumerate(faces):
        if face.others:
            continue
        strangers = [k for k, other in enumerate(faces) if other.speaker != face.speaker]
        fit = [[k for k in strangers if spoken[k] >= least] for least in (SPOKEN, 0)]
        choices[index] = fit[0] or fit[1] or strangers
        if needed and not strangers:
            raise UsageError(
                f"{display_path(face.path)} is listed with its own sound alone, and there is nobody else in the list "
                f"whose sound it could be given: all are {face.speaker!r}"
            )
    taken = [0] * len(faces)
    for index, choice in sorted(choices.items(), key=lambda item: len(item[1])):  # who has little choice goes first
        if choice:
            best = min(choice, key=lambda k: (taken[k], (k - index) % len(faces)))
            taken[best] += 1
            faces[index].donor = faces[best]


def _speech(path: Path, seconds: float) -> float:
    """The share of speech in a file's first seconds, -1 where it has no sound."""
    try:
        samples = load_audio(path)
    except (MediaError, OSError):
        return -1.0
    speech = speech_columns(samples)[: max(1, int(seconds * float(AudioConfig().columns_per_second)))]
    return float(speech.mean())


def _takes(face: _Face, protocol: str, faces: dict[str, _Face]) -> Iterator[Trial]:
    own = Trial(face.name, protocol, face.path, face.own, face.speaker, face.speaker, face.own, face.other)
    if protocol == SILENT:
        yield replace(own, audio=None, sound_of="")
    elif protocol != SWAPPED:
        yield replace(own, listed=face.with_own and protocol == MATCHED)
    elif face.donor:
        yield replace(own, audio=face.donor.own, sound_of=face.donor.speaker)
    for pair in face.others if protocol == SWAPPED else ():
        known = faces.get(os.path.realpath(pair.audio))
        of = known.speaker if known else speaker_of(pair.audio)
        yield replace(own, pair=pair.name, audio=pair.audio, sound_of=of, other=pair.audio, listed=True)
