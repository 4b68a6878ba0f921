"""How a face fits its sound, by an expert of ours that judges and by syncnet_python's network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.metrics.face_crops import SourceVideo
from preprocessing.dataset.segmentation import FRAME_SAMPLES
from preprocessing.dataset.windows import CropRegion, resample
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.audio import speech_columns
from preprocessing.media.video_reader import probe
from syncnet.data import WINDOW
from syncnet.lse import PublishedScorer
from syncnet.offset import REACH, shift_curve, sync_score
from syncnet.sync_expert import SyncExpert
from syncnet.video_scoring import ExpertScorer, score_tracks

Said = tuple[dict[str, float], list[float]]
"""Figures by their keys in `evaluation.report.columns`, and the 31 mean distances of the AV offsets 15 to -15, nan where no
window has a sound; both empty where there is no speech, and thus no sync."""


@dataclass(frozen=True)
class SyncMetrics:
    """What a judge says of a run of windows.

    Attributes:
        offset, distance, confidence: see `syncnet.offset.SyncScore`.
        curve: (31,) mean distance at each shift, see `syncnet.offset.shift_curve`.
    """

    offset: int
    distance: float
    confidence: float
    curve: np.ndarray

    @property
    def within_1(self) -> float:
        """1 if the sound is at most a frame early or late, else 0."""
        return float(abs(self.offset) <= 1)

    @property
    def cosine(self) -> float:
        """Of cosine distances alone: the mean cosine of pictures and sounds as they are, -1 to 1."""
        return float(1 - self.curve[REACH])


def sync(distances: np.ndarray, counted: np.ndarray) -> SyncMetrics:
    """From the distances of W windows, (W, 31), see `syncnet.offset.cosine_distances`, and which count, (W,) bool.

    Raises:
        UsageError: there is nothing to compare.
    """
    score = sync_score(distances, counted)
    return SyncMetrics(score.offset, score.distance, score.confidence, shift_curve(distances[counted]))


def look(pictures: np.ndarray, region: CropRegion) -> np.ndarray:
    """What an expert sees of whole points crops: (N, s, s, 3) uint8, s the region's size."""
    side = pictures.shape[1]
    scale = region.size / (region.side * side)
    left, top = ((0.5 - start * side) * scale - 0.5 for start in (region.left, region.top))
    matrix = np.array([[scale, 0, left], [0, scale, top]])
    return np.stack([resample(picture, matrix, region.size) for picture in pictures])


def judge_sync(faces: np.ndarray, samples: np.ndarray, start: int, judge: SyncExpert) -> Said:
    """What one of our experts says, as `python -m syncnet.score` asks it: windows with speech count, and they are
    compared with the sounds before and after the run too.

    Args:
        faces: (N, S, S, 3) uint8 BGR points crops of a run, from frame `start` of the video on.
        samples: (n,) int16 at 16 kHz, the sound from the video's beginning on.
    """
    heard = faces[: max(len(samples) // FRAME_SAMPLES - start, 0)]  # the pictures that have a sound
    speech = speech_columns(samples) if len(heard) >= WINDOW else np.zeros(1, bool)
    if not speech.any():
        return {}, []
    scorer = ExpertScorer(judge)
    video = scorer.embed(look(heard, judge.region))
    distances = scorer.compare(video, start, (start, start + len(heard)), samples)
    said = sync(distances, scorer.scored_windows(speech, start + np.arange(len(video))))
    figures = {
        "offset": float(said.offset), "within_1": said.within_1, "distance": said.distance,
        "confidence": said.confidence, "cosine": said.cosine,
    }  # fmt: skip
    return figures, said.curve.tolist()


def published_sync(path: Path, source: SourceVideo, samples: np.ndarray, scorer: PublishedScorer) -> Said:
    """LSE-D, LSE-C and the AV offset of a video that was made of a source, by syncnet_python's protocol.

    The face is looked for where the source has it, in the source's run; see `syncnet.lse.PublishedScorer` for what the
    protocol does otherwise.

    Args:
        samples: (n,) int16 at 16 kHz, the sound from the video's beginning on.

    Raises:
        MediaError: the video cannot be read.
    """
    if not speech_columns(samples).any():
        return {}, []
    (person,) = score_tracks(path, [_whole_track(path, source)], samples, scorer)
    if person is None:
        return {}, []
    said = sync(person.distances, np.ones(len(person.starts), bool))
    figures = {"lse_offset": float(said.offset), "lse_d": said.distance, "lse_c": said.confidence}
    return figures, said.curve.tolist()


def _whole_track(path: Path, source: SourceVideo) -> FaceTrack:
    """The source's run among all frames of a video, in the video's own pixels."""
    info, run, first = probe(path), source.track, source.start
    scale = np.array([info.width / source.info.width, info.height / source.info.height], np.float32)
    boxes = np.full((first + len(run), 4), np.nan, np.float32)
    points = np.full((first + len(run), 5, 2), np.nan, np.float32)
    boxes[first:] = run.boxes * np.tile(scale, 2)
    points[first:] = (run.points + 0.5) * scale - 0.5  # centres of pixels; the boxes are edges
    found = np.arange(len(boxes)) >= first
    return FaceTrack(boxes, points, found, np.zeros(len(boxes), np.int32), (info.width, info.height))
