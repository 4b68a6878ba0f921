"""Scores the people in a video, block by block: embeds their faces and compares them with the audio.

Apart from the face tracks, memory grows by only 31 distances per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.dataset.segmentation import FRAME_SAMPLES, face_runs
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.audio import AudioConfig
from preprocessing.media.mel import mel_spectrogram
from preprocessing.media.video_reader import read_frames
from syncnet.data import WINDOW
from syncnet.offset import REACH, cosine_distances
from syncnet.sync_expert import SyncExpert, windows_with_speech

BLOCK = 128  # windows per forward pass

Progress = Callable[[int, int], None]
"""Called with the number of frames done and in total."""


class Scorer(Protocol):
    """How an expert crops faces, embeds windows and compares them with the audio."""

    def window_count(self, frames: int) -> int:
        """Number of windows in a run of `frames` frames; 0 or less if it is too short."""

    def crop_params(self, track: FaceTrack) -> np.ndarray:
        """(N, ...) crop parameters for each frame of a run in which the face is always found."""

    def crop(self, frame: np.ndarray, params: np.ndarray) -> np.ndarray:
        """Crops the expert's input, (S, S, 3) uint8 BGR, from a frame (H, W, 3); `params` is a row of `crop_params`."""

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """Embeds all windows of consecutive crops: (N, S, S, 3) to (N - 4, D)."""

    def compare(self, video: np.ndarray, start: int, run: tuple[int, int], samples: np.ndarray) -> np.ndarray:
        """Distances of windows to the audio up to REACH frames before and after them.

        Args:
            video: (V, D) embeddings of the windows from frame `start` on.
            run: first frame of their run and one past its last.
            samples: (n,) int16 at 16 kHz, the audio of the whole video.

        Returns:
            (V, 2 * REACH + 1) float32, see `syncnet.offset.cosine_distances`.
        """

    def scored_windows(self, flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """(W,) bool: the windows to score, given speech flags by mel column."""


class ExpertScorer:
    """Scores a video with one of our experts; audio before and after a run is compared, too."""

    def __init__(self, expert: SyncExpert) -> None:
        self.expert = expert

    def window_count(self, frames: int) -> int:
        """Number of all windows."""
        return frames - WINDOW + 1

    def crop_params(self, track: FaceTrack) -> np.ndarray:
        """(N, 2, 3) affine maps from each frame to the expert's region of a points crop."""
        region, geometry = self.expert.region, CropGeometry("points")
        assert track.size is not None
        faces = zip(track.boxes, track.points, strict=True)
        maps = np.stack([geometry.matrix(box, points, track.size) for box, points in faces])
        scale = region.size / (region.side * geometry.size)
        corner = np.array([region.left, region.top]) * geometry.size
        maps[:, :, 2] += 0.5 - corner  # pixel centers to corners, and back
        maps *= scale
        maps[:, :, 2] -= 0.5
        return maps

    def crop(self, frame: np.ndarray, params: np.ndarray) -> np.ndarray:
        """(H, W, 3) to (S, S, 3); `params` is a (2, 3) affine map."""
        return crop(frame, params, self.expert.region.size)

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) to (N - 4, D)."""
        return self.expert.embed_mouths(faces)

    def compare(self, video: np.ndarray, start: int, run: tuple[int, int], samples: np.ndarray) -> np.ndarray:
        """Cosine distances, nan where the video has no audio."""
        audio_starts = np.arange(start - REACH, start + len(video) + REACH)
        mel, first = mel_around(samples, int(audio_starts[0]), int(audio_starts[-1]) + WINDOW)
        audio = self.expert.embed_speech(mel, audio_starts - first)
        distances = cosine_distances(np.pad(video, ((REACH, REACH), (0, 0))), audio)[REACH:-REACH]
        inside = (audio_starts >= 0) & (audio_starts <= len(samples) // FRAME_SAMPLES - WINDOW)
        distances[~np.lib.stride_tricks.sliding_window_view(inside, 2 * REACH + 1)] = np.nan
        return distances

    def scored_windows(self, flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The windows with speech."""
        return windows_with_speech(flags, starts)


def mel_around(
    samples: np.ndarray, first: int, last: int, config: AudioConfig = AudioConfig()
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Computes the mel of a range of frames, identical to that part of the whole audio's mel.

    Args:
        samples: (n,) int16, the whole audio.
        first, last: first frame and one past the last; they may lie outside the audio.

    Returns:
        (80, T) and its first frame: `first` or up to four frames earlier, since five frames are 16 columns.
    """
    begin = max(first, 0) // 5 * 5
    lead = min(begin * FRAME_SAMPLES, config.n_fft)  # the samples that affect the first columns
    part = samples[begin * FRAME_SAMPLES - lead : max(last, 1) * FRAME_SAMPLES + config.n_fft]
    columns = -(-(last - begin) * config.sample_rate // (CLIP_FPS * config.hop_length))  # later columns are incomplete
    return mel_spectrogram(part, config)[:, lead // config.hop_length :][:, : max(columns, 0)], begin


@dataclass
class ScoredTrack:
    """A sync expert's result for one person.

    Attributes:
        starts: (W,) first frames of the windows, in order.
        distances: (W, 31) float32, see `syncnet.offset.cosine_distances`.
        first, last: first frame in which the person is visible and one past the last.
    """

    starts: np.ndarray
    distances: np.ndarray
    first: int
    last: int


def score_tracks(
    frames: Path | Iterable[np.ndarray], tracks: Sequence[FaceTrack], samples: np.ndarray, scorer: Scorer,
    progress: Progress | None = None,
) -> list[ScoredTrack | None]:  # fmt: skip
    """Scores each person in a single pass over the video; None for people who are visible too briefly.

    A person is a face track over all its shots. Windows never span a cut or a frame without the face.

    Args:
        frames: the video, or its frames at 25 fps.
        tracks: the face tracks, one entry per frame at 25 fps, in pixels of the frames.
        samples: (n,) int16 at 16 kHz, the audio.
        scorer: the expert.
        progress: called with the number of frames done and in total.
    """
    waiting = sorted(_runs(tracks, samples, scorer), key=lambda run: run.first, reverse=True)
    runs, active, end = list(waiting), list[_ActiveRun](), max((run.last for run in waiting), default=0)
    if isinstance(frames, Path):
        frames = read_frames(frames, fps=Fraction(CLIP_FPS)) if runs else ()
    for index, frame in enumerate(frames):
        while waiting and waiting[-1].first <= index:
            active.append(waiting.pop())
        for run in active:
            run.add(frame, index)
        active = [run for run in active if index + 1 < run.last]
        if progress:
            progress(index + 1, end)
        if index + 1 >= end:
            break
    return [_merge_runs([run for run in reversed(runs) if run.person == person]) for person in range(len(tracks))]


def _runs(tracks: Sequence[FaceTrack], samples: np.ndarray, scorer: Scorer) -> Iterator[_ActiveRun]:
    """Each person's runs within a shot that have at least one window, up to the end of the audio."""
    for person, track in enumerate(tracks):
        for first, last in face_runs(track, min(len(track), len(samples) // FRAME_SAMPLES)):
            if scorer.window_count(last - first) > 0:
                part = slice(first, last)
                crop_params = scorer.crop_params(
                    FaceTrack(track.boxes[part], track.points[part], track.found[part], track.shot[part], track.size)
                )
                yield _ActiveRun(person, first, last, crop_params, samples, scorer)


@dataclass
class _ActiveRun:
    """A person's run that is being scored."""

    person: int
    first: int
    last: int
    crop_params: np.ndarray
    samples: np.ndarray
    scorer: Scorer
    faces: list[np.ndarray] = field(default_factory=list)
    distances: list[np.ndarray] = field(default_factory=list)
    done: int = 0

    def add(self, frame: np.ndarray, index: int) -> None:
        """Adds a frame of the run; embeds and compares whenever a block is full, and at the end."""
        needed = self.scorer.window_count(self.last - self.first) - self.done + WINDOW - 1
        if len(self.faces) < needed:
            self.faces.append(self.scorer.crop(frame, self.crop_params[index - self.first]))
        if len(self.faces) == min(needed, BLOCK + WINDOW - 1) >= WINDOW:
            video = self.scorer.embed(np.stack(self.faces))
            run = self.first, self.last
            self.distances.append(self.scorer.compare(video, self.first + self.done, run, self.samples))
            self.done += len(video)
            self.faces = self.faces[1 - WINDOW :]


def _merge_runs(runs: list[_ActiveRun]) -> ScoredTrack | None:
    """Merges a person's runs, in order."""
    runs = [run for run in runs if run.done]
    if not runs:
        return None
    starts = np.concatenate([run.first + np.arange(run.done) for run in runs])
    distances = np.concatenate([piece for run in runs for piece in run.distances])
    return ScoredTrack(starts, distances, runs[0].first, runs[-1].last)
