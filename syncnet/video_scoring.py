"""A video before an expert: the faces of its people, a block of pictures at a time, and how far each is from the sound.

Beside the people's paths the memory grows by 31 distances a picture only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.dataset.segmentation import FRAME_SAMPLES, face_runs
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.audio import AudioConfig, mel_spectrogram
from preprocessing.media.video_reader import read_frames
from syncnet.data import WINDOW
from syncnet.offset import REACH, cosine_distances
from syncnet.sync_expert import SyncExpert, windows_with_speech

BLOCK = 128  # windows that are embedded at once

Progress = Callable[[int, int], None]
"""Called with the frames that are done and their number in all."""


class Scorer(Protocol):
    """How an expert is shown a face and a sound, and how far it finds them apart."""

    def windows(self, frames: int) -> int:
        """How many windows are taken from a run of so many frames; less than 1: none."""

    def places(self, track: FaceTrack) -> np.ndarray:
        """(N, ...) what `cut` needs to know of each frame of a run in which the face is always found."""

    def cut(self, frame: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The square that the expert sees, (S, S, 3) uint8 BGR, of a frame (H, W, 3)."""

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) squares of consecutive frames to (N - 4, D) embeddings of windows."""

    def compare(self, video: np.ndarray, start: int, run: tuple[int, int], samples: np.ndarray) -> np.ndarray:
        """How far windows are from the sounds up to REACH frames around them.

        Args:
            video: (V, D) embeddings of the windows that begin at frame `start` and after it.
            run: first and one-past-last frame of the run that they belong to.
            samples: (n,) int16 at 16 kHz, the sound of the whole video.

        Returns:
            (V, 2 * REACH + 1) float32, see `syncnet.offset.cosine_distances`.
        """

    def counted(self, flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """(W,) bool: which windows say something about sync, by where there is speech (a flag a mel column)."""


class ExpertScorer:
    """Shows a video to one of our experts. Sounds before and after a run of a face are compared too."""

    def __init__(self, expert: SyncExpert) -> None:
        self.expert = expert

    def windows(self, frames: int) -> int:
        """All of them."""
        return frames - WINDOW + 1

    def places(self, track: FaceTrack) -> np.ndarray:
        """(N, 2, 3) maps from the frames to the square that the expert sees of a points crop."""
        region, whole = self.expert.region, CropGeometry("points")
        assert track.size is not None
        faces = zip(track.boxes, track.points, strict=True)
        maps = np.stack([whole.matrix(box, points, track.size) for box, points in faces])
        scale = region.size / (region.side * whole.size)
        corner = np.array([region.left, region.top]) * whole.size
        maps[:, :, 2] += 0.5 - corner  # from the middles of pixels to their edges, and back
        maps *= scale
        maps[:, :, 2] -= 0.5
        return maps

    def cut(self, frame: np.ndarray, place: np.ndarray) -> np.ndarray:
        """(H, W, 3) to (S, S, 3)."""
        return crop(frame, place, self.expert.region.size)

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) to (N - 4, D)."""
        return self.expert.embed_mouths(faces)

    def compare(self, video: np.ndarray, start: int, run: tuple[int, int], samples: np.ndarray) -> np.ndarray:
        """Cosine distances; nan where the video has no sound."""
        sounds = np.arange(start - REACH, start + len(video) + REACH)
        mel, first = mel_around(samples, int(sounds[0]), int(sounds[-1]) + WINDOW)
        audio = self.expert.embed_speech(mel, sounds - first)
        distances = cosine_distances(np.pad(video, ((REACH, REACH), (0, 0))), audio)[REACH:-REACH]
        inside = (sounds >= 0) & (sounds <= len(samples) // FRAME_SAMPLES - WINDOW)
        distances[~np.lib.stride_tricks.sliding_window_view(inside, 2 * REACH + 1)] = np.nan
        return distances

    def counted(self, flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Those with speech."""
        return windows_with_speech(flags, starts)


def mel_around(
    samples: np.ndarray, first: int, last: int, config: AudioConfig = AudioConfig()
) -> tuple[np.ndarray, int]:  # fmt: skip
    """The mel of some frames, exactly as it is in the mel of the whole sound.

    Args:
        samples: (n,) int16, the whole sound.
        first, last: first and one-past-last frame; they may lie outside.

    Returns:
        (80, T) and the frame at which it begins: `first` or up to four before it, since five frames are 16 columns.
    """
    begin = max(first, 0) // 5 * 5
    lead = min(begin * FRAME_SAMPLES, config.n_fft)  # as much as changes the first columns
    part = samples[begin * FRAME_SAMPLES - lead : max(last, 1) * FRAME_SAMPLES + config.n_fft]
    columns = -(-(last - begin) * config.sample_rate // (CLIP_FPS * config.hop_length))  # later ones lack some sound
    return mel_spectrogram(part, config)[:, lead // config.hop_length :][:, : max(columns, 0)], begin


@dataclass
class ScoredTrack:
    """What an expert found out about one person.

    Attributes:
        starts: (W,) first frames of the windows, in order.
        distances: (W, 31) float32, see `syncnet.offset.cosine_distances`.
        first, last: first and one-past-last frame in which the person is seen.
    """

    starts: np.ndarray
    distances: np.ndarray
    first: int
    last: int


def score_tracks(
    path: Path, tracks: Sequence[FaceTrack], samples: np.ndarray, scorer: Scorer, progress: Progress | None = None
) -> list[ScoredTrack | None]:  # fmt: skip
    """Reads the video once and lets the expert look at each of the people; None for who is seen too shortly.

    A person is a track: a face that is followed in one slot, in all of its shots together. A window never reaches over
    a cut or a frame without the face.

    Args:
        path: the video.
        tracks: of the people, by frames at 25 a second, in the video's pixels.
        samples: (n,) int16 at 16 kHz.
        scorer: the expert.
    """
    waiting = sorted(_runs(tracks, samples, scorer), key=lambda run: run.first, reverse=True)
    runs, active, end = list(waiting), list[_RunningScore](), max((run.last for run in waiting), default=0)
    for index, frame in enumerate(read_frames(path, fps=Fraction(CLIP_FPS)) if runs else ()):
        while waiting and waiting[-1].first <= index:
            active.append(waiting.pop())
        for run in active:
            run.add(frame, index)
        active = [run for run in active if index + 1 < run.last]
        if progress:
            progress(index + 1, end)
        if index + 1 >= end:
            break
    return [_gathered([run for run in reversed(runs) if run.person == person]) for person in range(len(tracks))]


def _runs(tracks: Sequence[FaceTrack], samples: np.ndarray, scorer: Scorer) -> Iterator[_RunningScore]:
    """The runs of each person in one shot that have a window, as far as there is sound."""
    for person, track in enumerate(tracks):
        for first, last in face_runs(track, min(len(track), len(samples) // FRAME_SAMPLES)):
            if scorer.windows(last - first) > 0:
                part = slice(first, last)
                places = scorer.places(
                    FaceTrack(track.boxes[part], track.points[part], track.found[part], track.shot[part], track.size)
                )
                yield _RunningScore(person, first, last, places, samples, scorer)


@dataclass
class _RunningScore:
    """A run of one person that is being watched."""

    person: int
    first: int
    last: int
    places: np.ndarray
    samples: np.ndarray
    scorer: Scorer
    faces: list[np.ndarray] = field(default_factory=list)
    distances: list[np.ndarray] = field(default_factory=list)
    done: int = 0

    def add(self, frame: np.ndarray, index: int) -> None:
        """Takes a frame of the run; embeds and compares when a block is full, and at the end."""
        needed = self.scorer.windows(self.last - self.first) - self.done + WINDOW - 1
        if len(self.faces) < needed:
            self.faces.append(self.scorer.cut(frame, self.places[index - self.first]))
        if len(self.faces) == min(needed, BLOCK + WINDOW - 1) >= WINDOW:
            video = self.scorer.embed(np.stack(self.faces))
            run = self.first, self.last
            self.distances.append(self.scorer.compare(video, self.first + self.done, run, self.samples))
            self.done += len(video)
            self.faces = self.faces[1 - WINDOW :]


def _gathered(runs: list[_RunningScore]) -> ScoredTrack | None:
    """One person's runs, in order, as one."""
    runs = [run for run in runs if run.done]
    if not runs:
        return None
    starts = np.concatenate([run.first + np.arange(run.done) for run in runs])
    distances = np.concatenate([piece for run in runs for piece in run.distances])
    return ScoredTrack(starts, distances, runs[0].first, runs[-1].last)
