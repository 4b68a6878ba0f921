"""Builds the clips of one video, in stages and two passes over its frames.

The first pass tracks the faces in downscaled frames and keeps only the tracks. All measures that need no pixels are
taken next, so that the second pass decodes only possible clips at full size. Apart from the tracks, memory does not
grow with the length of the video; only the JPEGs of the current clips are held.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np

from preprocessing.build.sources import VideoSource
from preprocessing.dataset.clip_candidates import (
    MIN_RUN,
    MIN_SIZE,
    CandidateDraft,
    ClipAudio,
    ClipCandidate,
    cut_tracks,
    measure_track,
    stored_size,
)
from preprocessing.dataset.clips import CLIP_FPS, ClipHeader
from preprocessing.dataset.manifest import ClipRow
from preprocessing.dataset.quality_filters import QualityFilters
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.crops import CropGeometry
from preprocessing.faces.detectors import DETECTORS, load_detector
from preprocessing.faces.face_track import FaceDetector, FaceTrack
from preprocessing.faces.tracking import track_faces
from preprocessing.media.audio import AudioConfig, spool_audio
from preprocessing.media.speech_activity import speech_columns
from preprocessing.media.video_reader import VideoInfo, probe, read_frames

# The stages in order, called by `_make`. Crop and write alternate, one clip at a time.
STAGES = ("probe", "sound", "track", "cut", "measure", "crop", "write")

REVISION = 1  # incremented when a code change produces different clips from the same video
TRACK_SIDE = 640  # pixels: longer side of the frames used for tracking
JUST_BEFORE = 1e-7  # seconds: keeps float rounding of the start time from skipping a frame


@dataclass(frozen=True)
class ClipRecipe:
    """Recipe for building clips.

    Attributes:
        size: Side of the stored square in pixels; smaller for faces that would exceed max_upscale.
        margin: Margin around the square for crop jitter in training, relative to its side.
        max_upscale: Maximum enlargement of a small face.
        quality: JPEG quality, 1 to 100.
        max_faces: Maximum number of people tracked at the same time.
        detector: Face detector: auto, center, yunet, sfd or haar.
        yunet: YuNet model file.
        sfd: S3FD weights file.
        device: Device for sfd, cpu or cuda.
        filters: Thresholds of the quality filters.
    """

    size: int = 160
    margin: float = 0.125
    max_upscale: float = 1.5
    quality: int = 95
    max_faces: int = 2
    detector: str = "auto"
    yunet: Path | None = None
    sfd: Path | None = None
    device: str = "cpu"
    filters: QualityFilters = field(default_factory=QualityFilters)

    def __post_init__(self) -> None:
        limits = {"size": (MIN_SIZE, 1024), "margin": (0, 1), "max_upscale": (0.1, 100), "quality": (1, 100)}
        for name, (low, high) in (limits | {"max_faces": (1, 26)}).items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} must be {low} to {high}, not {getattr(self, name)}")
        if self.detector not in DETECTORS:
            raise UsageError(f"detector must be one of {', '.join(DETECTORS)}, not {self.detector!r}")

    def digest(self) -> str:
        """Hash of everything that affects the clips; file locations and the device do not."""
        values = asdict(self) | {"revision": REVISION}
        del values["device"]
        values |= {name: path.name if (path := values[name]) else None for name in ("yunet", "sfd")}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass
class VideoOutcome:
    """The outcome of a video.

    Attributes:
        source_video: path relative to the video folder.
        fate: "made": a clip passes; "rejected": none does; "broken": the content is unusable; "failed": the video could
            not be read or its clips not written, worth a retry.
        reason: one line, "" if made.
        seconds: duration of the video.
        rows: one per clip, including rejected ones.
        stages: processing seconds by stage.
    """

    source_video: str
    fate: str
    reason: str
    seconds: float
    rows: list[ClipRow]
    stages: dict[str, float]


class StageTimer:
    """Measures processing seconds by stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begun


def make_clips(source: VideoSource, clips: Path, recipe: ClipRecipe) -> VideoOutcome:
    """Builds the clips of one video in `clips`/clips. Bad media and a full disk are reported as an outcome.

    Raises:
        UsageError: the detector of the recipe is not available.
    """
    detector = _detector(recipe.detector, recipe.device, recipe.yunet, recipe.sfd)
    outcome, clock = VideoOutcome(source.video, "rejected", "", 0.0, [], {}), StageTimer()
    outcome.stages = clock.seconds
    found: list[ClipCandidate] = []
    try:
        _make(source, clips, recipe, detector, outcome, found, clock)
        outcome.rows = [_row(source, candidate) for candidate in found]
        outcome.fate, outcome.reason = _verdict(found, recipe.filters)
    except (MediaError, OSError) as error:
        for candidate in found:
            if candidate.clip:
                (clips / candidate.clip).unlink(missing_ok=True)
        outcome.fate, outcome.reason = _failure(error, source.path)
    return outcome


def _make(
    source: VideoSource, clips: Path, recipe: ClipRecipe, detector: FaceDetector, outcome: VideoOutcome,
    found: list[ClipCandidate], clock: StageTimer,
) -> None:  # fmt: skip
    """Runs the stages in order, filling `outcome` and `found`."""
    with clock("probe"):
        info, sha256 = probe_source(source.path)
        outcome.seconds = info.duration
    with clock("sound"):
        audio = read_audio(source.path)
    with clock("track"):
        tracks = track_video_faces(source.path, info, detector, recipe.max_faces)
    with clock("cut"):
        found += cut_tracks(tracks, audio, recipe.filters)
    with clock("measure"):
        for candidate in found:
            measure_track(candidate, audio, recipe.filters)
            candidate.size = stored_size(candidate.track.points, recipe.size, recipe.max_upscale)
    drafts = crop_faces(source.path, [candidate for candidate in found if not candidate.reasons], audio, recipe)
    while True:
        with clock("crop"):
            draft = next(drafts, None)
        if draft is None:
            return
        with clock("write"):
            write_draft(draft, source, sha256, audio, clips, recipe)


def probe_source(path: Path) -> tuple[VideoInfo, str]:
    """Stream information and SHA-256 of the file; MediaError unless it is a video with audio."""
    info = probe(path)
    if info.is_image:
        raise MediaError(f"{display_path(path)} is an image, not a video")
    if not info.has_audio:
        raise MediaError(f"{display_path(path)} has no audio track")
    with path.open("rb") as file:
        return info, hashlib.file_digest(file, "sha256").hexdigest()


def read_audio(path: Path, config: AudioConfig = AudioConfig()) -> ClipAudio:
    """The audio, spooled to a temporary file, with its speech flags."""
    with tempfile.TemporaryDirectory() as folder:
        samples = spool_audio(path, Path(folder), config)
    return ClipAudio(samples, speech_columns(samples, config), config.hop_length)


def track_video_faces(path: Path, info: VideoInfo, detector: FaceDetector, max_faces: int) -> list[FaceTrack]:
    """First pass: the face track of each person, in video pixels."""
    frames = read_frames(path, fps=Fraction(CLIP_FPS), max_side=TRACK_SIDE)
    tracks = track_faces(_of_one_size(frames, path), detector, max_faces=max_faces)
    for track in tracks:
        if track.size:
            scale = np.array([info.width / track.size[0], info.height / track.size[1]], np.float32)
            track.boxes *= np.tile(scale, 2)
            track.points = (track.points + 0.5) * scale - 0.5  # landmarks are pixel centers, box coordinates are edges
        track.size, track.fps = (info.width, info.height), str(CLIP_FPS)
    return tracks


def _of_one_size(frames: Iterable[np.ndarray], path: Path) -> Iterator[np.ndarray]:
    shape = None
    for index, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise MediaError(f"{display_path(path)} changes its frame size at {index / CLIP_FPS:.2f} s")
        yield frame


def crop_faces(
    path: Path, wanted: Sequence[ClipCandidate], audio: ClipAudio, recipe: ClipRecipe
) -> Iterator[CandidateDraft]:
    """Second pass: yields finished drafts of the candidates, which must be sorted by their first frame."""
    if not wanted:
        return
    begin, end = wanted[0].first, max(candidate.last for candidate in wanted)
    start = max(0.0, begin / CLIP_FPS - JUST_BEFORE)
    frames = read_frames(path, fps=Fraction(CLIP_FPS), start=start, end=(end + 1) / CLIP_FPS)
    pending, active = list(reversed(wanted)), list[CandidateDraft]()
    for index, frame in enumerate(frames, begin):
        while pending and pending[-1].first == index:
            candidate = pending.pop()
            active.append(CandidateDraft(candidate, round(recipe.margin * candidate.size), recipe.quality))
        for draft in active:
            draft.add(frame)
        for draft in [draft for draft in active if draft.candidate.last == index + 1]:
            active.remove(draft)
            draft.measure_frames(audio, recipe.filters)
            yield draft
        if not (pending or active):
            return
    raise OSError(f"{display_path(path)} changed while it was being read")


def write_draft(
    draft: CandidateDraft, source: VideoSource, sha256: str, audio: ClipAudio, clips: Path, recipe: ClipRecipe
) -> None:
    """Writes a clip unless a quality filter rejected it."""
    candidate = draft.candidate
    if candidate.reasons:
        return
    name = f"{source.id}__{chr(ord('a') + candidate.person)}{candidate.number:04d}.safetensors"
    header = ClipHeader(
        source=source.video, sha256=sha256, start=candidate.first / CLIP_FPS, frames=candidate.frames,
        speaker=source.speaker, language=source.language, licence=source.licence, person=candidate.person,
        crop=CropGeometry("points", candidate.size), margin=draft.margin, versions=_versions(),
        picture=candidate.track.size,
    )  # fmt: skip
    relative = f"clips/{_folder_name(source.speaker)}/{name}"
    samples, flags = audio.segment(candidate.first, candidate.last)
    draft.clip.write(clips / relative, header, samples, candidate.track, flags)
    candidate.clip = relative


def _folder_name(speaker: str) -> str:
    """A folder name for a speaker; speakers may share one, since clip names are unique."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", speaker)[:60].lstrip(".-") or "speaker"


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(), "opencv": cv2.__version__, "av": av.__version__, "numpy": np.__version__
    }  # fmt: skip


@lru_cache(maxsize=1)
def _detector(name: str, device: str, yunet: Path | None, sfd: Path | None) -> FaceDetector:
    """Loads a detector once per process."""
    return load_detector(name, device, yunet=yunet, sfd=sfd)


def _row(source: VideoSource, candidate: ClipCandidate) -> ClipRow:
    return ClipRow(
        clip=candidate.clip, video=source.video, person=candidate.person, number=candidate.number,
        start=candidate.first / CLIP_FPS, seconds=candidate.frames / CLIP_FPS, frames=candidate.frames,
        speaker=source.speaker, split=source.split, language=source.language, licence=source.licence,
        size=candidate.size if candidate.clip else 0, audio_sha256=candidate.audio_sha256,
        reason="+".join(candidate.reasons), **vars(candidate.measures),
    )  # fmt: skip


def _verdict(found: Sequence[ClipCandidate], filters: QualityFilters) -> tuple[str, str]:
    """(fate, reason) of a fully processed video."""
    if any(candidate.clip for candidate in found):
        return "made", ""
    counts = Counter(name for candidate in found for name in candidate.reasons)
    if not counts:
        return "rejected", f"no face with audio found for {MIN_RUN / CLIP_FPS} s or longer"
    return "rejected", "no clip passes: " + ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _failure(error: Exception, path: Path) -> tuple[str, str]:
    """(fate, reason): content errors are permanent ("broken"); system errors are worth a retry ("failed")."""
    cause = error if isinstance(error, OSError) else error.__cause__
    fate = "failed" if isinstance(cause, OSError) and not isinstance(cause, av.FFmpegError) else "broken"
    if isinstance(error, OSError) and error.strerror:
        return fate, f"{display_path(error.filename or path)}: {error.strerror}"
    return fate, " ".join(str(error).split())
