"""The sound of the output: the speech, and the video's own sound where it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from inference.files.face_source import FaceSource
from inference.options import Options
from inference.parts import Part
from preprocessing.errors import UsageError
from preprocessing.media.sound.mux import AudioSource, AudioTrack

FADE = 0.01  # seconds, where the video's own sound begins and ends


def timed_parts(parts: Sequence[Part], source: FaceSource) -> tuple[Part, ...]:
    """The parts, each with an end: the given one, or where its sound ends.

    Raises:
        MediaError: a part's file has no sound.
        UsageError: a part begins after the video's end.
    """
    length = None if source.still else float(source.count / source.fps)
    timed = []
    for number, part in enumerate(parts, 1):
        if length is not None and part.start >= length:
            raise UsageError(f"part {number} begins at {part.start:g} s, after the video's end at {length:.2f} s")
        end = part.start + AudioTrack.of(AudioSource(part.audio)).seconds
        timed.append(replace(part, end=end if part.end is None else min(end, part.end)))
    return tuple(timed)


def audio_sources(audio: Path | None, parts: Sequence[Part], source: FaceSource, options: Options) -> list[AudioSource]:
    """The speech and the video's own sound: throughout with the gain `keep_audio`, or unchanged outside the `parts`."""
    own = source.info.has_audio and not source.info.is_image
    if not parts:
        assert audio is not None
        sounds = [AudioSource(audio, track=options.audio_track)]
        if options.keep_audio and own:
            length = None if source.end is None else source.end - source.start
            sounds.append(AudioSource(source.path, start=source.start, duration=length, gain=options.keep_audio))
        return sounds
    sounds = [_said(part, options) for part in parts]
    return sounds + (list(_own_sound(parts, source, options.keep_audio)) if own else [])


def _said(part: Part, options: Options) -> AudioSource:
    assert part.end is not None
    return AudioSource(part.audio, duration=part.end - part.start, at=part.start, track=options.audio_track)


def _own_sound(parts: Sequence[Part], source: FaceSource, least: float) -> list[AudioSource]:
    """Excerpts of the video's own sound: unchanged outside the parts, with the larger gain where two overlap."""
    length = min(float(source.count / source.fps), AudioTrack.of(AudioSource(source.path)).seconds - source.start)
    spans = [(part.start, part.end or length, max(part.keep_audio, least)) for part in parts]
    edges = sorted({0.0, length, *(edge for first, last, _ in spans for edge in (first, last) if edge < length)})
    sounds = []
    for first, last in pairwise(edges):
        gains = [gain for begin, end, gain in spans if begin < last and first < end]
        gain = max(gains, default=1.0)
        if gain > 0 and last - first > 2 * FADE:
            sounds.append(
                AudioSource(
                    source.path, start=source.start + first, duration=last - first, gain=gain, at=first, fade=FADE
                )
            )
    return sounds
