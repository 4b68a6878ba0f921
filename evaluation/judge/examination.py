"""What a judge of sync says of a real video: as it is, with its sound moved, and with worse and worse pictures."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from evaluation.judge.degradation import ladder
from evaluation.judge.judge_report import AS_IT_IS, JudgeFindings, JudgeReading
from evaluation.metrics.face_crops import SourceVideo
from evaluation.metrics.sync import look
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.dataset.segmentation import FRAME_SAMPLES, frames_with_sound
from preprocessing.errors import MediaError, display_path
from preprocessing.media.audio import speech_columns
from preprocessing.media.video_reader import read_frames
from syncnet.lse import CROP_SCALE
from syncnet.offset import REACH, shift_curve, sync_score
from syncnet.video_scoring import ExpertScorer, Scorer

PLANTED = [shift for shift in range(-10, 11) if shift]  # frames by which the sound is made late
LATE = (1, 2, 3)  # those of them that stand in the ladder too
ANOTHER = "another's sound"
SHORTEST = CLIP_FPS  # frames with face and sound


@dataclass(frozen=True)
class SyncJudge:
    """A judge and how it is shown a source.

    Attributes:
        name: "judge" for one of ours, "syncnet" for syncnet_python's.
        scorer: see `syncnet.video_scoring`.
    """

    name: str
    scorer: Scorer

    def see(self, source: SourceVideo) -> tuple[np.ndarray, float]:
        """The run's pictures, (N, S, S, 3) uint8 BGR, before anything is done to them, and how many of their pixels
        show a pixel of a points crop of 128. For one of ours these crops themselves."""
        if isinstance(self.scorer, ExpertScorer):
            return source.faces, 1.0
        places, last = self.scorer.crop_params(source.track), source.start + len(source.track)
        frames = read_frames(source.path, fps=Fraction(CLIP_FPS), end=(last + 1) / CLIP_FPS)
        run = (frame for index, frame in enumerate(frames) if source.start <= index < last)
        pictures = np.stack([self.scorer.crop(frame, place) for frame, place in zip(run, places, strict=False)])
        maps = source.maps(source.info.width, source.info.height)
        wide = 2 * (1 + CROP_SCALE) * float(np.median(places[:, 2]))  # pixels of the video across the square
        return pictures, pictures.shape[1] / (wide * float(np.median(np.sqrt(np.linalg.det(maps[:, :, :2])))))

    def embed(self, pictures: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) pictures of `see` to (W, D) embeddings of the windows that the judge's protocol takes."""
        if isinstance(self.scorer, ExpertScorer):
            pictures = look(pictures, self.scorer.expert.region)
        return self.scorer.embed(pictures)[: self.scorer.window_count(len(pictures))]

    def read(
        self, video: np.ndarray, start: int, frames: int, samples: np.ndarray, own: int | None = None
    ) -> JudgeReading:
        """What it says of embedded windows and a sound.

        Args:
            video: (W, D), of the run that begins at frame `start` and is `frames` long.
            samples: (n,) int16, the sound from the file's beginning on.
            own: the offset at which `near` is taken; None: the one that is found.

        Raises:
            UsageError: nothing can be compared.
        """
        distances = self.scorer.compare(video, start, (start, start + frames), samples)
        counted = self.scorer.scored_windows(speech_columns(samples), start + np.arange(len(video)))
        score, curve = sync_score(distances, counted), shift_curve(distances[counted])
        return JudgeReading(score.offset, score.confidence, float(curve[REACH - (score.offset if own is None else own)]),
                       curve)  # fmt: skip


def late(samples: np.ndarray, frames: int) -> np.ndarray:
    """A sound (n,) so many frames later (negative: earlier), as long as before; what is missing is silent."""
    moved, distance = np.zeros_like(samples), abs(frames) * FRAME_SAMPLES
    if frames >= 0:
        moved[distance:] = samples[: max(len(samples) - distance, 0)]
    else:
        moved[: max(len(samples) - distance, 0)] = samples[distance:]
    return moved


def examine(judge: SyncJudge, source: SourceVideo, other: np.ndarray) -> JudgeFindings:
    """All about one video; the pictures are embedded once for all planted shifts.

    Args:
        other: (n,) int16, somebody else's sound, repeated where it is shorter; empty: there is none.

    Raises:
        MediaError: face and sound do not last a second together, or nobody speaks.
    """
    samples = source.samples
    frames = min(len(source.track), len(samples) // FRAME_SAMPLES - source.start)
    if frames < SHORTEST:
        raise MediaError(f"{display_path(source.path)} has no second with a face and sound")
    if not speech_columns(samples).any():
        raise MediaError(f"{display_path(source.path)} is silent: without speech there is no sync to judge")
    pictures, scale = judge.see(source)
    pictures = pictures[:frames]
    video, run = judge.embed(pictures), (source.start, frames)
    own = judge.read(video, *run, samples)
    planted = {shift: judge.read(video, *run, late(samples, shift), own.offset) for shift in PLANTED}
    changed = {AS_IT_IS: own}
    for name, change in ladder().items():
        changed[name] = judge.read(judge.embed(change(pictures, scale)), *run, samples, own.offset)
    changed |= {f"sound {shift} frame{'s' * (shift > 1)} late": planted[shift] for shift in LATE}
    if len(other):
        changed[ANOTHER] = judge.read(video, *run, np.resize(other, len(samples)), own.offset)
    lasting = min(len(source.track), frames_with_sound(source.start + len(source.track), len(samples)) - source.start)
    return JudgeFindings(source.path, lasting, planted, changed)
