"""Makes the videos that are compared: of every system from the same pictures and sound, by the same encoder."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.io import wavfile

from evaluation.metrics.face_crops import SourceVideo, open_source
from evaluation.protocols.baselines import held, retimed
from evaluation.protocols.pairs import fingerprint, safe_name
from evaluation.protocols.trials import Trial
from evaluation.report.results import BASELINES, REAL, SECONDS, SILENT, STATIC, STILLS, UNSYNCED
from inference.face_source import FaceSource, Framing
from inference.options import Options
from inference.pipeline import LipSync
from preprocessing.commands import write_whole
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.audio import AudioConfig, as_int16, frame_count, load_audio
from preprocessing.media.audio_mux import AudioSource
from preprocessing.media.video_reader import read_frames
from preprocessing.media.video_writer import VideoWriter

SHORTEST = 1.0  # seconds
STILL_AT = {"a": Fraction(1, 4), "b": Fraction(3, 4)}  # of the run: the two stills that are made to speak
_RATE = AudioConfig().sample_rate


def find_made(folder: Path, take: Trial, still: str = "") -> Path | None:
    """The video that somebody made of a take: FOLDER/PROTOCOL/NAME.mp4, or FOLDER/NAME.mp4 of a pair in the list.

    Args:
        still: "a" or "b" for the stills, whose names end so: NAME-a.mp4.
    """
    name = _named(take.pair, still)
    places = [folder / take.protocol / name, *([folder / name] if take.listed else ())]
    return next((place for place in places if place.is_file()), None)


def still_index(frames: int, still: str) -> int:
    """Which frame of a run of that length a still is."""
    return int(frames * STILL_AT[still])


class VideoMaker:
    """Makes each take's video of each system, into OUT/videos/PROTOCOL/PAIR/SYSTEM.mp4.

    All are as long as the shortest of the face's video, the sound and `seconds`. A video that is there already is taken
    as it is if it is whole and was made of the same files with the same settings, so that an evaluation that was
    interrupted goes on; of the program's own version nothing is known, so after an update begin a new folder.
    """

    def __init__(
        self, out: Path, detector: FaceDetector, models: Mapping[str, LipSync] | None = None, seconds: float = SECONDS,
        options: Mapping[str, Any] | None = None, fps: int | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            out: the report's folder.
            detector: finds the faces of what is measured and held.
            models: generators by the names of their rows.
            seconds: how much of each video is made at most.
            options: of every job, see `inference.options.Options`: how generators find faces, blend, encode.
            fps: the rate to which faces are brought first, for all systems alike; None: they keep their own.

        Raises:
            UsageError: a name or an option is wrong, or the videos would be too short.
        """
        self.models, self.options = dict(models or {}), dict(options or {})
        for name in self.models:
            if name in BASELINES or name != safe_name(name):
                raise UsageError(f"a generator cannot be called {name!r}: take letters, digits, . and -")
        if not SHORTEST <= seconds < math.inf:
            raise UsageError(f"{SHORTEST:g} s or more are made of each video, not {seconds:g}")
        self.out, self.detector, self.seconds, self.fps = out, detector, seconds, fps
        self.options |= {"fps": fps} if fps else {}  # which is the stills'
        self.crf = Options(**self.options).crf
        self._opened: tuple[Path | None, SourceVideo | MediaError] = (None, MediaError())
        self._hashes: dict[Path, str] = {}

    def source(self, face: Path) -> SourceVideo:
        """A face's own video, its first `seconds`; the last one is kept, so ask for one face after the other.

        Raises:
            MediaError: there is nothing to measure in it.
        """
        if self._opened[0] != face:
            try:
                self._opened = face, open_source(face, self.detector, self.seconds)
            except MediaError as error:
                self._opened = face, error
        if isinstance(self._opened[1], MediaError):
            raise MediaError(str(self._opened[1]))
        return self._opened[1]

    def make(self, take: Trial, system: str, still: str = "") -> Path | str:
        """The video of a system, or the reason why there is none, in one line.

        * real: the face's pictures with its own sound.
        * unsynced: with another's sound; in "silent" there is none of it.
        * copy: with the take's sound.
        * static: with the take's sound and, in the generator's mask, the mouth of the first measured frame.
        * a generator's name: what it makes of face and sound; in "stills" of the still "a" or "b" of the face.
        """
        assert (take.protocol == STILLS) == bool(still), "a still belongs to the stills, and to nothing else"
        path = self.out / "videos" / take.protocol / take.pair / _named(system, still)
        try:
            recipe = self._recipe(take, system, still)
            if not _is_made(path, recipe):
                _keep(path, take)
                self._make(take, system, still, path)
                _note(path, recipe)
        except (MediaError, OSError, MemoryError) as error:
            return " ".join(str(error).split()) or f"there is too little memory for {display_path(take.face)}"
        return path

    def _make(self, take: Trial, system: str, still: str, path: Path) -> None:
        source = self.source(take.face)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            sound, face = self._sound(take, system, source, Path(folder)), take.face
            if self.fps and not still and source.info.fps != self.fps:
                face = retimed(face, self.fps, self.seconds, Path(folder) / "face.mp4")
            if still:
                face = _write_still(source, still, Path(folder) / "still.png")
                self.models[system](face, _shortened(sound, self.seconds, Path(folder)), path, **self.options)
            elif system in self.models:
                options = {**self.options, "end": self.seconds, "sync_mode": "cut"}
                self.models[system](face, sound, path, **options)
            else:
                self._write(source, face, sound, path, hold=system == STATIC)

    def _sound(self, take: Trial, system: str, source: SourceVideo, folder: Path) -> Path:
        """What is heard; silence is written into the folder."""
        if system == UNSYNCED:
            if take.other is None or take.protocol == SILENT:
                raise MediaError(f"there is no other person's sound for {display_path(take.face)} in this protocol")
            return take.other
        if system == REAL and (source.info.has_audio or take.protocol != SILENT):
            return take.own
        if take.audio is not None:
            return take.audio
        frames = FaceSource(take.face, Framing(), end=self.seconds)
        return _write_wav(folder / "silence.wav", np.zeros(math.ceil(frames.count / frames.fps * _RATE), np.int16))

    def _write(self, source: SourceVideo, video: Path, sound: Path, path: Path, hold: bool) -> None:
        """The face's own pictures with a sound, as a generator's job joins them."""
        face = FaceSource(video, Framing(), end=self.seconds)
        count = min(face.count, frame_count(len(load_audio(sound)), face.fps))
        pictures = face.frames(0, count)
        with VideoWriter(
            path, *face.size, face.fps, sounds=[AudioSource(sound)], crf=self.crf, source=face.info
        ) as writer:  # fmt: skip
            for picture in held(pictures, face.fps, source) if hold else pictures:
                writer.write(picture)

    def _recipe(self, take: Trial, system: str, still: str) -> dict[str, object]:
        """All that the video depends on, as JSON has it."""
        sounds = {REAL: take.own, UNSYNCED: take.other}
        sound = sounds.get(system, take.audio)
        values = {
            "protocol": take.protocol, "system": system, "still": still, "face": self._hash(take.face),
            "sound": self._hash(sound) if sound else "", "seconds": self.seconds,
            "options": {name: str(value) for name, value in sorted(self.options.items())},
        }  # fmt: skip
        if system in self.models:
            known = self.models[system].engine.provenance()
            values["checkpoint"] = [self._hash(path) for path in known[0]] if known else []
            # An engine of unknown provenance is never the one of an earlier time.
            values["engine"] = known[1] if known else os.urandom(8).hex()
        return values

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = fingerprint(path)
        return self._hashes[path]


def _named(name: str, still: str) -> str:
    return f"{name}-{still}.mp4" if still else f"{name}.mp4"


def _write_still(source: SourceVideo, still: str, path: Path) -> Path:
    number = source.start + still_index(len(source.track), still)
    pictures = read_frames(source.path, fps=Fraction(CLIP_FPS), end=(number + 2) / CLIP_FPS)
    path.write_bytes(cv2.imencode(".png", next(islice(pictures, number, None)))[1].tobytes())
    return path


def _shortened(sound: Path, seconds: float, folder: Path) -> Path:
    """The sound, or its first seconds: a photo speaks as long as it lasts."""
    samples = load_audio(sound)[: round(seconds * _RATE) + 1]
    if len(samples) <= seconds * _RATE:
        return sound
    return _write_wav(folder / "sound.wav", as_int16(samples[:-1]))


def _write_wav(path: Path, samples: np.ndarray) -> Path:
    """(n,) int16, 16 kHz."""
    wavfile.write(path, _RATE, samples)
    return path


def _keep(path: Path, take: Trial) -> None:
    """Refuses to write over what the list names."""
    for given in (take.face, take.audio, take.own, take.other):
        if given is not None and path.exists() and given.exists() and path.samefile(given):
            raise MediaError(f"{display_path(path)} is also an input: take another folder for the report")


def _is_made(path: Path, recipe: dict[str, object]) -> bool:
    """Whether the video is there as the note beside it says, made as it is wanted."""
    try:
        note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return note == {"made": recipe, "video": fingerprint(path)} and path.is_file()


def _note(path: Path, recipe: dict[str, object]) -> None:
    """Writes beside the video what it is made of."""
    text = json.dumps({"made": recipe, "video": fingerprint(path)}, indent=1)
    write_whole(path.with_suffix(".json"), text)
