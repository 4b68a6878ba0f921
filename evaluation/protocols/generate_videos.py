"""Generates the videos to compare: every system gets the same frames, audio and video encoder."""

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
from evaluation.protocols.baselines import convert_fps, freeze_mouth
from evaluation.protocols.pairs import fingerprint, safe_name
from evaluation.protocols.trials import Trial
from evaluation.report.results import BASELINES, REAL, SECONDS, SILENT, STATIC, STILLS, UNSYNCED
from inference.files.face_source import FaceSource, Framing
from inference.options import Options
from inference.pipeline import LipSync
from preprocessing.commands import write_whole
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.audio import AudioConfig, as_int16, frame_count, load_audio
from preprocessing.media.sound.mux import AudioSource
from preprocessing.media.video_reader import read_frames
from preprocessing.media.video_writer import VideoWriter

MIN_SECONDS = 1.0
STILL_POSITIONS = {"a": Fraction(1, 4), "b": Fraction(3, 4)}  # positions of the two stills within the run
_SAMPLE_RATE = AudioConfig().sample_rate


def find_video(folder: Path, trial: Trial, still: str = "") -> Path | None:
    """Look up an existing video of a trial: FOLDER/PROTOCOL/NAME.mp4, or FOLDER/NAME.mp4 for a listed pair.

    Args:
        still: "a" or "b" for the stills protocol, whose files are named NAME-a.mp4 and NAME-b.mp4.
    """
    name = _file_name(trial.pair, still)
    candidates = [folder / trial.protocol / name, *([folder / name] if trial.listed else ())]
    return next((path for path in candidates if path.is_file()), None)


def still_index(frames: int, still: str) -> int:
    """Index of a still within a run of this length."""
    return int(frames * STILL_POSITIONS[still])


class VideoMaker:
    """Generates each trial's video for each system, in OUT/videos/PROTOCOL/PAIR/SYSTEM.mp4.

    Each is as long as the shortest of the face video, the audio and `seconds`. An existing complete video is reused if
    it was made from the same files with the same settings, so an interrupted evaluation resumes. The program's own
    version is not checked: use a new folder after an update.
    """

    def __init__(
        self, out: Path, detector: FaceDetector, models: Mapping[str, LipSync] | None = None, seconds: float = SECONDS,
        options: Mapping[str, Any] | None = None, fps: int | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            out: the report's folder.
            detector: face detector for the measured run and the static baseline.
            models: generators by system name.
            seconds: maximum length of each video.
            options: options of every inference job (detection, blending, encoding), see `inference.options.Options`.
            fps: frame rate that faces are converted to first, for all systems; None keeps their own.

        Raises:
            UsageError: invalid name or option, or `seconds` is too small.
        """
        self.models, self.options = dict(models or {}), dict(options or {})
        for name in self.models:
            if name in BASELINES or name != safe_name(name):
                raise UsageError(f"invalid generator name {name!r}: use letters, digits, . and -")
        if not MIN_SECONDS <= seconds < math.inf:
            raise UsageError(f"seconds must be {MIN_SECONDS:g} or more, not {seconds:g}")
        self.out, self.detector, self.seconds, self.fps = out, detector, seconds, fps
        self.options |= {"fps": fps} if fps else {}  # for the stills
        self.crf = Options(**self.options).crf
        self._opened: tuple[Path | None, SourceVideo | MediaError] = (None, MediaError())
        self._hashes: dict[Path, str] = {}

    def source(self, face: Path) -> SourceVideo:
        """The first `seconds` of a face's source video; only the last one is cached, so request them face by face.

        Raises:
            MediaError: the video has nothing to measure.
        """
        if self._opened[0] != face:
            try:
                self._opened = face, open_source(face, self.detector, self.seconds)
            except MediaError as error:
                self._opened = face, error
        if isinstance(self._opened[1], MediaError):
            raise MediaError(str(self._opened[1]))
        return self._opened[1]

    def make(self, trial: Trial, system: str, still: str = "") -> Path | str:
        """The path of a system's video, or a one-line reason why there is none.

        * real: the original frames with their own audio.
        * unsynced: with another speaker's audio; not available in the silent protocol.
        * copy: with the trial's driving audio.
        * static: with the driving audio and, inside the generator's mask, the mouth of the first measured frame.
        * a generator: its output for face and audio; in the stills protocol, for still "a" or "b" of the face.
        """
        assert (trial.protocol == STILLS) == bool(still), "the stills protocol, and only it, requires a still"
        path = self.out / "videos" / trial.protocol / trial.pair / _file_name(system, still)
        try:
            recipe = self._recipe(trial, system, still)
            if not _is_up_to_date(path, recipe):
                _refuse_overwrite(path, trial)
                self._make(trial, system, still, path)
                _write_recipe(path, recipe)
        except (MediaError, OSError, MemoryError) as error:
            return " ".join(str(error).split()) or f"out of memory for {display_path(trial.face)}"
        return path

    def _make(self, trial: Trial, system: str, still: str, path: Path) -> None:
        source = self.source(trial.face)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            audio, face = self._audio(trial, system, source, Path(folder)), trial.face
            if self.fps and not still and source.info.fps != self.fps:
                face = convert_fps(face, self.fps, self.seconds, Path(folder) / "face.mp4")
            if still:
                face = _write_still(source, still, Path(folder) / "still.png")
                self.models[system](face, _trim(audio, self.seconds, Path(folder)), path, **self.options)
            elif system in self.models:
                options = {**self.options, "end": self.seconds, "sync_mode": "cut"}
                self.models[system](face, audio, path, **options)
            else:
                self._write(source, face, audio, path, freeze=system == STATIC)

    def _audio(self, trial: Trial, system: str, source: SourceVideo, folder: Path) -> Path:
        """The audio of a system's video; silence is written into the folder."""
        if system == UNSYNCED:
            if trial.other is None or trial.protocol == SILENT:
                raise MediaError(f"no other speaker's audio for {display_path(trial.face)} in this protocol")
            return trial.other
        if system == REAL and (source.info.has_audio or trial.protocol != SILENT):
            return trial.own
        if trial.audio is not None:
            return trial.audio
        frames = FaceSource(trial.face, Framing(), end=self.seconds)
        samples = math.ceil(frames.count / frames.fps * _SAMPLE_RATE)
        return _write_wav(folder / "silence.wav", np.zeros(samples, np.int16))

    def _write(self, source: SourceVideo, video: Path, audio: Path, path: Path, freeze: bool) -> None:
        """Write the original frames with some audio, encoded like a generator's output."""
        face = FaceSource(video, Framing(), end=self.seconds)
        count = min(face.count, frame_count(len(load_audio(audio)), face.fps))
        frames = face.frames(0, count)
        with VideoWriter(
            path, *face.size, face.fps, sounds=[AudioSource(audio)], crf=self.crf, source=face.info
        ) as writer:  # fmt: skip
            for frame in freeze_mouth(frames, face.fps, source) if freeze else frames:
                writer.write(frame)

    def _recipe(self, trial: Trial, system: str, still: str) -> dict[str, object]:
        """Everything the video depends on, JSON-serializable."""
        audio = {REAL: trial.own, UNSYNCED: trial.other}.get(system, trial.audio)
        values = {
            "protocol": trial.protocol, "system": system, "still": still, "face": self._hash(trial.face),
            "sound": self._hash(audio) if audio else "", "seconds": self.seconds,
            "options": {name: str(value) for name, value in sorted(self.options.items())},
        }  # fmt: skip
        if system in self.models:
            known = self.models[system].engine.provenance(Options.of(self.options))
            values["checkpoint"] = [self._hash(path) for path in known[0]] if known else []
            # An engine of unknown provenance never counts as unchanged.
            values["engine"] = known[1] if known else os.urandom(8).hex()
        return values

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = fingerprint(path)
        return self._hashes[path]


def _file_name(name: str, still: str) -> str:
    return f"{name}-{still}.mp4" if still else f"{name}.mp4"


def _write_still(source: SourceVideo, still: str, path: Path) -> Path:
    number = source.start + still_index(len(source.track), still)
    frames = read_frames(source.path, fps=Fraction(CLIP_FPS), end=(number + 2) / CLIP_FPS)
    path.write_bytes(cv2.imencode(".png", next(islice(frames, number, None)))[1].tobytes())
    return path


def _trim(audio: Path, seconds: float, folder: Path) -> Path:
    """The audio cut to `seconds`: a video made from a photo is as long as its audio."""
    samples = load_audio(audio)[: round(seconds * _SAMPLE_RATE) + 1]
    if len(samples) <= seconds * _SAMPLE_RATE:
        return audio
    return _write_wav(folder / "sound.wav", as_int16(samples[:-1]))


def _write_wav(path: Path, samples: np.ndarray) -> Path:
    """(n,) int16, 16 kHz."""
    wavfile.write(path, _SAMPLE_RATE, samples)
    return path


def _refuse_overwrite(path: Path, trial: Trial) -> None:
    """Raise MediaError instead of overwriting an input file."""
    for given in (trial.face, trial.audio, trial.own, trial.other):
        if given is not None and path.exists() and given.exists() and path.samefile(given):
            raise MediaError(f"{display_path(path)} is also an input: use another folder for the report")


def _is_up_to_date(path: Path, recipe: dict[str, object]) -> bool:
    """Whether the video exists and its JSON file records the same recipe and content hash."""
    try:
        note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return note == {"made": recipe, "video": fingerprint(path)} and path.is_file()


def _write_recipe(path: Path, recipe: dict[str, object]) -> None:
    """Record the recipe in a JSON file next to the video."""
    text = json.dumps({"made": recipe, "video": fingerprint(path)}, indent=1)
    write_whole(path.with_suffix(".json"), text)
