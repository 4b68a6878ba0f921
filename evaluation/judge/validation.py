"""A sync judge's scores of a real video: unchanged, with shifted audio, and with degraded frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from evaluation.judge.degradation import degradations
from evaluation.judge.judge_report import ANOTHER, AS_IT_IS, JudgeFindings, JudgeScore
from evaluation.metrics.face_crops import SourceVideo
from evaluation.metrics.sync import crop_region
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.dataset.segmentation import FRAME_SAMPLES, frames_with_audio
from preprocessing.errors import MediaError, display_path
from preprocessing.media.speech_activity import speech_columns
from preprocessing.media.video_reader import read_frames
from syncnet.offset import REACH, shift_curve, sync_score
from syncnet.scoring.lse import CROP_SCALE
from syncnet.scoring.video_scoring import ExpertScorer, Scorer

PLANTED = [shift for shift in range(-10, 11) if shift]  # frames by which the audio is delayed
DELAYS = (1, 2, 3)  # those that are also listed among the degradations
MIN_FRAMES = CLIP_FPS  # with both face and audio


@dataclass(frozen=True)
class SyncJudge:
    """A judge and its preprocessing of a source video.

    Attributes:
        name: "judge" for our expert, "syncnet" for syncnet_python's network.
        scorer: see `syncnet.scoring.video_scoring`.
    """

    name: str
    scorer: Scorer

    def crop(self, source: SourceVideo) -> tuple[np.ndarray, float]:
        """The judge's face crops of the run, (N, S, S, 3) uint8 BGR, and their scale relative to the points crops.

        The scale is in crop pixels per pixel of a 128-pixel points crop. Our experts use the points crops themselves.
        """
        if isinstance(self.scorer, ExpertScorer):
            return source.faces, 1.0
        places, last = self.scorer.crop_params(source.track), source.start + len(source.track)
        frames = read_frames(source.path, fps=Fraction(CLIP_FPS), end=(last + 1) / CLIP_FPS)
        run = (frame for index, frame in enumerate(frames) if source.start <= index < last)
        crops = np.stack([self.scorer.crop(frame, place) for frame, place in zip(run, places, strict=False)])
        matrices = source.crop_matrices(source.info.width, source.info.height)
        width = 2 * (1 + CROP_SCALE) * float(np.median(places[:, 2]))  # of the crop, in video pixels
        return crops, crops.shape[1] / (width * float(np.median(np.sqrt(np.linalg.det(matrices[:, :, :2])))))

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Map (N, S, S, 3) crops to (W, D) embeddings of the windows that the judge's protocol uses."""
        if isinstance(self.scorer, ExpertScorer):
            crops = crop_region(crops, self.scorer.expert.region)
        return self.scorer.embed(crops)[: self.scorer.window_count(len(crops))]

    def score(
        self, video: np.ndarray, start: int, frames: int, samples: np.ndarray, own: int | None = None
    ) -> JudgeScore:
        """Score embedded windows against audio.

        Args:
            video: (W, D) embeddings of the run that starts at frame `start` and is `frames` long.
            samples: (n,) int16, the audio from the start of the file.
            own: the offset at which `near` is taken; None for the one that is found.

        Raises:
            UsageError: nothing can be compared.
        """
        distances = self.scorer.compare(video, start, (start, start + frames), samples)
        counted = self.scorer.scored_windows(speech_columns(samples), start + np.arange(len(video)))
        found, curve = sync_score(distances, counted), shift_curve(distances[counted])
        near = float(curve[REACH - (found.offset if own is None else own)])
        return JudgeScore(found.offset, found.confidence, near, curve)


def delay(samples: np.ndarray, frames: int) -> np.ndarray:
    """Delay audio (n,) by this many frames (negative: advance), keeping its length and filling with silence."""
    moved, distance = np.zeros_like(samples), abs(frames) * FRAME_SAMPLES
    if frames >= 0:
        moved[distance:] = samples[: max(len(samples) - distance, 0)]
    else:
        moved[: max(len(samples) - distance, 0)] = samples[distance:]
    return moved


def validate(judge: SyncJudge, source: SourceVideo, other: np.ndarray) -> JudgeFindings:
    """Run all tests on one video; the frames are embedded once for all planted shifts.

    Args:
        other: (n,) int16, another speaker's audio, repeated if shorter; empty if there is none.

    Raises:
        MediaError: less than a second with both face and audio, or no speech.
    """
    samples = source.samples
    frames = min(len(source.track), len(samples) // FRAME_SAMPLES - source.start)
    if frames < MIN_FRAMES:
        raise MediaError(f"{display_path(source.path)} has less than 1 s with both a face and audio")
    if not speech_columns(samples).any():
        raise MediaError(f"{display_path(source.path)} has no speech")
    crops, scale = judge.crop(source)
    crops = crops[:frames]
    video, run = judge.embed(crops), (source.start, frames)
    own = judge.score(video, *run, samples)
    planted = {shift: judge.score(video, *run, delay(samples, shift), own.offset) for shift in PLANTED}
    changed = {AS_IT_IS: own}
    for name, degrade in degradations().items():
        changed[name] = judge.score(judge.embed(degrade(crops, scale)), *run, samples, own.offset)
    changed |= {f"sound {shift} frame{'s' * (shift > 1)} late": planted[shift] for shift in DELAYS}
    if len(other):
        changed[ANOTHER] = judge.score(video, *run, np.resize(other, len(samples)), own.offset)
    lasting = min(len(source.track), frames_with_audio(source.start + len(source.track), len(samples)) - source.start)
    return JudgeFindings(source.path, lasting, planted, changed)
