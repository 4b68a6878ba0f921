"""Which of the people in a video speak its own sound, and when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from inference.files.face_source import FaceSource
from preprocessing.build.video_pipeline import read_audio
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.dataset.segmentation import FRAME_SAMPLES
from preprocessing.faces.face_track import FaceTrack
from preprocessing.faces.people import Person
from preprocessing.media.audio import AudioConfig
from syncnet.scoring.active_speaker import NOBODY, speakers
from syncnet.scoring.video_scoring import ExpertScorer, Progress, score_tracks
from syncnet.sync_expert import SyncExpert

FADE = 5  # source frames over which the mouth of one speaker gives way to another's
MIN_SPEAKING = 0.5  # seconds in all below which a person counts as silent


@dataclass(frozen=True)
class Speaking:
    """Who speaks in each frame: an index into the people, or NOBODY, at `fps`."""

    by_frame: np.ndarray
    fps: Fraction

    def seconds(self, person: int) -> float:
        """For how long the person with that index speaks; 0 if it is too little to be sure."""
        seconds = float((self.by_frame == person).sum() / self.fps)
        return seconds if seconds >= MIN_SPEAKING else 0.0

    def active(self, person: int) -> np.ndarray:
        """(n,) float32 by frame, 0 to 1: 1 where the person speaks, with slopes of FADE frames around it."""
        speaks = (self.by_frame == person).astype(np.float32)
        slope = np.maximum(0, 1 - np.abs(np.arange(-FADE, FADE + 1)) / (FADE + 1)).astype(np.float32)
        padded = np.pad(speaks, FADE, mode="edge")
        return np.max([padded[k : k + len(speaks)] * weight for k, weight in enumerate(slope)], axis=0)


def who_speaks(source: FaceSource, people: Sequence[Person], progress: Progress | None = None) -> Speaking | None:
    """Compares every mouth with the video's own sound, by the sync expert; None if there is no speech to compare.

    Args:
        progress: called with the number of frames done and in total, at 25 fps.
    """
    if source.still or not source.info.has_audio or not people:
        return None
    audio, first = read_audio(source.path), round(source.start * CLIP_FPS)
    samples = audio.samples[first * FRAME_SAMPLES :]
    config = AudioConfig()
    flags = audio.flags[round(source.start * config.sample_rate / config.hop_length) :]
    if not flags.any():
        return None
    order = _order(people[0].length, source.fps)
    tracks = [_reordered(person.track(), order) for person in people]
    scorer = ExpertScorer(SyncExpert.load())
    scored = score_tracks(_shown(source.frames(), order), tracks, samples, scorer, progress)
    chosen = speakers(scored, flags, len(order))
    times = np.array([int(number * CLIP_FPS / source.fps) for number in range(people[0].length)])
    return Speaking(chosen[np.minimum(times, len(order) - 1)], source.fps)


def _order(count: int, fps: Fraction) -> np.ndarray:
    """The source frame to show in each frame at 25 fps, of `count` at `fps`."""
    shown = max(1, round(count * CLIP_FPS / fps))
    return np.minimum((np.arange(shown) * float(fps) / CLIP_FPS + 0.5).astype(int), count - 1)


def _shown(frames: Iterable[np.ndarray], order: np.ndarray) -> Iterator[np.ndarray]:
    """The frames in the increasing order of `order`, repeated or left out."""
    number, position = -1, iter(order.tolist())
    wanted = next(position, None)
    for number, frame in enumerate(frames):
        while wanted == number:
            yield frame
            wanted = next(position, None)


def _reordered(track: FaceTrack, order: np.ndarray) -> FaceTrack:
    return FaceTrack(track.boxes[order], track.points[order], track.found[order], track.shot[order], track.size)


__all__ = ["NOBODY", "Speaking", "who_speaks"]
