"""The trials that each protocol makes of a list of pairs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluation.protocols.pairs import Pair, is_own_audio, speaker_of
from evaluation.report.results import MATCHED, PROTOCOLS, SECONDS, SILENT, SWAPPED
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.audio import AudioConfig, load_audio
from preprocessing.media.speech_activity import speech_columns

MIN_SPEECH = 0.5  # share of speech required of audio that is given to other faces


@dataclass(frozen=True)
class Trial:
    """One video to generate: a face and its driving audio in one protocol.

    Attributes:
        pair: name of the pair, unique within the protocol.
        protocol: one of `evaluation.report.results.PROTOCOLS`.
        face: the video.
        audio: the driving audio; None for silence.
        speaker: the person in the video.
        audio_speaker: the speaker of the driving audio, "" for silence.
        own: the face's own audio, usually the face's file.
        other: another speaker's audio, for the unsynced baseline; None if the list has no other speaker.
        listed: whether the list contains this face with this audio.
    """

    pair: str
    protocol: str
    face: Path
    audio: Path | None
    speaker: str
    audio_speaker: str
    own: Path
    other: Path | None = None
    listed: bool = False


@dataclass
class _Face:
    """A distinct face of the list."""

    name: str
    path: Path
    speaker: str
    own: Path
    with_own: bool = False  # listed with its own audio
    others: list[Pair] = field(default_factory=list)  # listed with other audio
    donor: _Face | None = None  # source of swapped audio for a face that is listed with its own audio only

    @property
    def other(self) -> Path | None:
        if self.others:
            return self.others[0].audio
        return self.donor.own if self.donor else None


def make_trials(pairs: Sequence[Pair], protocols: Iterable[str], seconds: float = SECONDS) -> list[Trial]:
    """The trials of a list, grouped by face; deterministic for a given list.

    * matched, silent, stills: each face once, with its own audio, silence, and its own audio.
    * swapped: the listed pairs whose audio is not the face's own. A face listed with its own audio only is given that
      of another speaker's face: the next one in the list among those used least so far. Files with little speech in
      their first `seconds`, or without audio, are used only if there is nothing else.

    Audio is the face's own if it is the same file, or has the same name in the same folder (a.mp4 and a.wav).

    Raises:
        UsageError: unknown protocol, or swapped audio is requested and the list has a single speaker.
    """
    protocols = tuple(protocols)
    for name in protocols:
        if name not in PROTOCOLS:
            raise UsageError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {name!r}")
    faces = _distinct_faces(pairs)
    _assign_donors(list(faces.values()), seconds, required=SWAPPED in protocols)
    return [trial for face in faces.values() for protocol in protocols for trial in _trials_of(face, protocol, faces)]


def _distinct_faces(pairs: Sequence[Pair]) -> dict[str, _Face]:
    """Faces by real path, in list order."""
    faces: dict[str, _Face] = {}
    for pair in pairs:
        speaker = pair.speaker or speaker_of(pair.face)
        face = faces.setdefault(os.path.realpath(pair.face), _Face(pair.name, pair.face, speaker, pair.face))
        if not is_own_audio(pair.face, pair.audio):
            face.others.append(pair)
        elif not face.with_own:
            face.name, face.own, face.with_own = pair.name, pair.audio, True
    return faces


def _assign_donors(faces: Sequence[_Face], seconds: float, required: bool) -> None:
    """Assign a donor to each face that is not listed with other audio."""
    speech = [_speech_share(face.own, seconds) for face in faces]
    choices = {}
    for index, face in enumerate(faces):
        if face.others:
            continue
        candidates = [k for k, other in enumerate(faces) if other.speaker != face.speaker]
        suitable = [[k for k in candidates if speech[k] >= least] for least in (MIN_SPEECH, 0)]
        choices[index] = suitable[0] or suitable[1] or candidates
        if required and not candidates:
            raise UsageError(
                f"no swapped audio for {display_path(face.path)}: it is listed with its own audio only, "
                f"and all faces in the list belong to {face.speaker!r}"
            )
    used = [0] * len(faces)
    for index, choice in sorted(choices.items(), key=lambda item: len(item[1])):  # the fewest options first
        if choice:
            best = min(choice, key=lambda k: (used[k], (k - index) % len(faces)))
            used[best] += 1
            faces[index].donor = faces[best]


def _speech_share(path: Path, seconds: float) -> float:
    """Share of speech in a file's first seconds; -1 without audio."""
    try:
        samples = load_audio(path)
    except (MediaError, OSError):
        return -1.0
    speech = speech_columns(samples)[: max(1, int(seconds * float(AudioConfig().columns_per_second)))]
    return float(speech.mean())


def _trials_of(face: _Face, protocol: str, faces: dict[str, _Face]) -> Iterator[Trial]:
    own = Trial(face.name, protocol, face.path, face.own, face.speaker, face.speaker, face.own, face.other)
    if protocol == SILENT:
        yield replace(own, audio=None, audio_speaker="")
    elif protocol != SWAPPED:
        yield replace(own, listed=face.with_own and protocol == MATCHED)
    elif face.donor:
        yield replace(own, audio=face.donor.own, audio_speaker=face.donor.speaker)
    for pair in face.others if protocol == SWAPPED else ():
        known = faces.get(os.path.realpath(pair.audio))
        by = known.speaker if known else speaker_of(pair.audio)
        yield replace(own, pair=pair.name, audio=pair.audio, audio_speaker=by, other=pair.audio, listed=True)
