"""Audio-visual sync, scored by our judge (a sync expert) and by syncnet_python's network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.metrics.face_crops import SourceVideo
from preprocessing.dataset.segmentation import FRAME_SAMPLES
from preprocessing.dataset.windows import CropRegion, resample
from preprocessing.errors import MediaError
from preprocessing.faces.detectors import FaceDetector
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.speech_activity import speech_columns
from preprocessing.media.video_reader import probe
from syncnet.data import WINDOW
from syncnet.offset import REACH, shift_curve, sync_score
from syncnet.score import open_scorer, score_video
from syncnet.scoring.lse import PublishedScorer
from syncnet.scoring.video_scoring import ExpertScorer, score_tracks
from syncnet.sync_expert import JUDGE, SyncExpert

logger = logging.getLogger(__name__)

MIN_CONFIDENCE = 0.15  # of the judge in a recording's offset; recordings in sync have 0.2 to 0.55

RecordingOffset = Callable[[Path], int]
"""From a video to its AV offset in frames at 25 fps, positive if the audio is early (`syncnet.offset.SyncScore`).

A mouth generated from late audio is late, too: before the two are compared, the speaker's mouth is put in sync."""

SyncResult = tuple[dict[str, float], list[float]]
"""Metrics by their keys in `evaluation.report.columns`, and the 31 mean distances at the AV offsets 15 to -15, nan
where no window has audio. Both are empty without speech, since there is no sync to measure."""


@dataclass(frozen=True)
class SyncMetrics:
    """Sync scores of a run of windows.

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
        """1 if the audio is at most one frame early or late, else 0."""
        return float(abs(self.offset) <= 1)

    @property
    def cosine(self) -> float:
        """Mean cosine similarity of video and audio at zero shift, -1 to 1; valid for cosine distances only."""
        return float(1 - self.curve[REACH])


def sync(distances: np.ndarray, counted: np.ndarray) -> SyncMetrics:
    """Scores from the distances of W windows, (W, 31), see `syncnet.offset.cosine_distances`, and a mask, (W,) bool.

    Raises:
        UsageError: there is nothing to compare.
    """
    score = sync_score(distances, counted)
    return SyncMetrics(score.offset, score.distance, score.confidence, shift_curve(distances[counted]))


def crop_region(faces: np.ndarray, region: CropRegion) -> np.ndarray:
    """Cut an expert's input region out of whole points crops: (N, s, s, 3) uint8, s being the region's size."""
    side = faces.shape[1]
    scale = region.size / (region.side * side)
    left, top = ((0.5 - start * side) * scale - 0.5 for start in (region.left, region.top))
    matrix = np.array([[scale, 0, left], [0, scale, top]])
    return np.stack([resample(face, matrix, region.size) for face in faces])


def judge_sync(faces: np.ndarray, samples: np.ndarray, start: int, judge: SyncExpert) -> SyncResult:
    """Score a run with one of our experts, like `python -m syncnet.score`.

    Only windows with speech count; they are compared with the audio before and after the run as well.

    Args:
        faces: (N, S, S, 3) uint8 BGR points crops of a run, from frame `start` of the video on.
        samples: (n,) int16 at 16 kHz, the audio from the start of the video.
    """
    faces = faces[: max(len(samples) // FRAME_SAMPLES - start, 0)]  # frames that have audio
    speech = speech_columns(samples) if len(faces) >= WINDOW else np.zeros(1, bool)
    if not speech.any():
        return {}, []
    scorer = ExpertScorer(judge)
    video = scorer.embed(crop_region(faces, judge.region))
    distances = scorer.compare(video, start, (start, start + len(faces)), samples)
    metrics = sync(distances, scorer.scored_windows(speech, start + np.arange(len(video))))
    figures = {
        "offset": float(metrics.offset), "within_1": metrics.within_1, "distance": metrics.distance,
        "confidence": metrics.confidence, "cosine": metrics.cosine,
    }  # fmt: skip
    return figures, metrics.curve.tolist()


def published_sync(path: Path, source: SourceVideo, samples: np.ndarray, scorer: PublishedScorer) -> SyncResult:
    """LSE-D, LSE-C and AV offset of a video generated from a source, by syncnet_python's protocol.

    The face track is the source's; the rest of the protocol is described in `syncnet.scoring.lse.PublishedScorer`.

    Args:
        samples: (n,) int16 at 16 kHz, the audio from the start of the video.

    Raises:
        MediaError: the video cannot be read.
    """
    if not speech_columns(samples).any():
        return {}, []
    (person,) = score_tracks(path, [_full_track(path, source)], samples, scorer)
    if person is None:
        return {}, []
    metrics = sync(person.distances, np.ones(len(person.starts), bool))
    figures = {"lse_offset": float(metrics.offset), "lse_d": metrics.distance, "lse_c": metrics.confidence}
    return figures, metrics.curve.tolist()


def _full_track(path: Path, source: SourceVideo) -> FaceTrack:
    """The source's run as a track over all frames of a video, in that video's pixels."""
    info, run, first = probe(path), source.track, source.start
    scale = np.array([info.width / source.info.width, info.height / source.info.height], np.float32)
    boxes = np.full((first + len(run), 4), np.nan, np.float32)
    points = np.full((first + len(run), 5, 2), np.nan, np.float32)
    boxes[first:] = run.boxes * np.tile(scale, 2)
    points[first:] = (run.points + 0.5) * scale - 0.5  # points refer to pixel centers, boxes to edges
    found = np.arange(len(boxes)) >= first
    return FaceTrack(boxes, points, found, np.zeros(len(boxes), np.int32), (info.width, info.height))


def in_sync(path: Path) -> int:
    """The offset of any video if all recordings are taken as they are."""
    return 0


def judged_offset(detector: FaceDetector) -> RecordingOffset:
    """Offsets as our judge hears and sees them; 0 where it is not confident or finds no speech or face.

    The judge never saw the people of the val split, nor was any generator trained with it.
    """
    scorer = open_scorer(JUDGE)

    def offset(path: Path) -> int:
        try:
            score = score_video(path, scorer, detector).speaker.score
        except MediaError as error:
            logger.warning("AV offset not measured: %s", error)
            return 0
        return score.offset if score and score.confidence >= MIN_CONFIDENCE else 0

    return offset
