"""A person's own video as clips to learn from: one face, followed as `inference.py` follows it, and its own sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import (
    JUST_BEFORE,
    ClipRecipe,
    crop_faces,
    probe_source,
    read_audio,
    write_draft,
)
from preprocessing.dataset.clip_candidates import ClipAudio, ClipCandidate, cut_tracks, measure_track, stored_size
from preprocessing.dataset.clips import CLIP_FPS, Clip
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.face_track import FaceDetector, FaceTrack
from preprocessing.faces.identity import parse_select
from preprocessing.faces.tracking import track_face
from preprocessing.media.video_reader import read_frames
from syncnet.offset import SyncScore, sync_score
from syncnet.sync_expert import SyncExpert
from syncnet.sync_filter import FilterLimits
from syncnet.validation import score_clip

SHORTEST = 3.0  # seconds of a speaking face
LONGEST = 60.0  # seconds that are looked at: more than a few hundred steps can see
RECIPE, LIMITS = ClipRecipe(), FilterLimits()  # those of every data set

Progress = Callable[[int, int], None]
"""Called with what is done and how much it is in all."""


@dataclass(frozen=True)
class VideoPart:
    """Which face of a video, and when.

    Attributes:
        start, end: seconds; without an end, and otherwise at most, `LONGEST` from the start on.
        select: largest, left, right, center or "X,Y".
        face_id: the n-th person to appear instead, from 0 on.
        every: frames from one look of the detector to the next.
    """

    start: float = 0.0
    end: float | None = None
    select: str = "largest"
    face_id: int | None = None
    every: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1e7:
            raise UsageError(f"start must be 0 or more seconds, not {self.start}")
        if self.end is not None and not self.end > self.start:
            raise UsageError(f"end must lie after start ({self.start:g} s), not at {self.end:g} s")
        parse_select(self.select)

    def frames(self, duration: float) -> tuple[int, int]:
        """First and one-past-last frame, at 25 a second, of a video of so many seconds."""
        end = min(self.start + LONGEST, duration, duration if self.end is None else self.end)
        return round(self.start * CLIP_FPS), round(end * CLIP_FPS)


def make_person_clips(
    path: Path, folder: Path, part: VideoPart, detector: FaceDetector, progress: Progress | None = None
) -> list[Clip]:  # fmt: skip
    """Makes the clips of one person in a video, with the quality filters of every data set.

    Args:
        path: the video.
        folder: where the clips are written.
        progress: called with the frames that are looked at and their number.

    Raises:
        MediaError: it is no video, or lacks sound, speech or a face for three seconds.
        OSError: the clips cannot be written.
    """
    info, digest = probe_source(path)
    first, last = part.frames(info.duration)
    if last - first < SHORTEST * CLIP_FPS:
        lasts = f"{max(last - first, 0) / CLIP_FPS:.2f} s"
        raise MediaError(
            f"{display_path(path)} lasts {lasts} from start to end: {SHORTEST:g} s or more are needed to adapt"
        )
    sound = read_audio(path)
    if not sound.segment(first, last)[1].any():
        raise MediaError(f"{display_path(path)} is silent: without speech there is nothing to adapt to")
    track = _follow(path, first, last, part, detector, progress)
    found = _cut(path, track, sound)
    source = VideoSource(path, path.name, "person", "person", "train")
    for draft in crop_faces(path, [each for each in found if not each.reasons], sound, RECIPE):
        write_draft(draft, source, digest, sound, folder, RECIPE)
    _require_enough(path, track, found)
    return [Clip.open(folder / each.clip) for each in found if each.clip]


def _follow(
    path: Path, first: int, last: int, part: VideoPart, detector: FaceDetector, progress: Progress | None
) -> FaceTrack:  # fmt: skip
    """The face's path, numbered as the whole video's frames; before `first` nobody is found."""
    start = max(0.0, first / CLIP_FPS - JUST_BEFORE)
    frames = read_frames(path, fps=Fraction(CLIP_FPS), start=start, end=last / CLIP_FPS)
    track = track_face(
        _counted(frames, path, last - first, progress), detector, select=part.select, face_id=part.face_id,
        every=part.every,
    )  # fmt: skip

    def late(values: np.ndarray, filling: float) -> np.ndarray:
        return np.pad(values, [(first, 0)] + [(0, 0)] * (values.ndim - 1), constant_values=filling)

    boxes, points = late(track.boxes, np.nan), late(track.points, np.nan)
    return FaceTrack(boxes, points, late(track.found, False), late(track.shot, -1), track.size, str(CLIP_FPS))


def _counted(frames: Iterator[np.ndarray], path: Path, total: int, progress: Progress | None) -> Iterator[np.ndarray]:
    shape = None
    for number, frame in enumerate(frames, 1):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise MediaError(f"{display_path(path)} changes the size of its picture on the way")
        if progress:
            progress(number, total)
        yield frame


def _cut(path: Path, track: FaceTrack, sound: ClipAudio) -> list[ClipCandidate]:
    """The stretches that may become clips, measured."""
    if not track.found.any():
        raise MediaError(f"{display_path(path)} shows no face that can be found")
    found = cut_tracks([track], sound, RECIPE.filters)
    for each in found:
        measure_track(each, sound, RECIPE.filters)
        each.size = stored_size(each.track.points, RECIPE.size, RECIPE.max_upscale)
    return found


def _require_enough(path: Path, track: FaceTrack, found: Sequence[ClipCandidate]) -> None:
    seconds = sum(each.frames for each in found if each.clip) / CLIP_FPS
    if seconds >= SHORTEST:
        return
    counts = Counter(reason for each in found for reason in each.reasons)
    why = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    seen = f"a face for {track.found.sum() / CLIP_FPS:.2f} s, {seconds:.2f} s of it good to learn from"
    raise MediaError(
        f"{display_path(path)} shows {seen}: {SHORTEST:g} s are needed" + (f" (kept out by: {why})" if why else "")
    )


def repaired(path: Path, clips: Sequence[Clip], expert: SyncExpert) -> tuple[list[Clip], SyncScore]:
    """The clips of a video with its offset of sound and picture taken out, and that offset.

    A video has one offset: it is found from all clips together.

    Raises:
        MediaError: it is too large, or the lips do not move with the sound.
    """
    judged = [score_clip(expert, clip) for clip in clips]
    distances, counted = (
        np.concatenate([getattr(each, name) for each in judged]) for name in ("distances", "windows_with_speech")
    )
    score = sync_score(distances, counted)
    if LIMITS.verdict(score) != "pass":
        figures = f"offset {score.offset:+d} frames, confidence {score.confidence:.2f}"
        raise MediaError(
            f"the lips in {display_path(path)} do not move with its sound ({figures}): nothing is to be learnt"
        )
    return [Clip(clip.path, kind="points", offset=score.offset) for clip in clips], score
