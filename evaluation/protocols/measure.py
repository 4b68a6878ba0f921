"""All figures of one video: what is seen of it is measured against its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.metrics import motion, picture
from evaluation.metrics.face_crops import FaceFootage, SourceVideo, look
from evaluation.metrics.face_encoder import FaceEncoder, distance
from evaluation.metrics.inception import InceptionEncoder
from evaluation.metrics.sync import judge_sync, published_sync
from evaluation.report.results import MATCHED, SILENT, ResultRow
from preprocessing.dataset.segmentation import FRAME_SAMPLES
from preprocessing.media.audio import speech_columns
from syncnet.data import speech_share
from syncnet.lse import PublishedScorer
from syncnet.sync_expert import SyncExpert

AROUND = 2  # frames to either side of a quiet one in which nobody speaks either


@dataclass(frozen=True)
class Instruments:
    """What is measured with.

    Attributes:
        judge: ours, which took no part in training the generator.
        encoder: ours.
        published: syncnet_python's network, None: the user has not given it.
        inception: likewise.
    """

    judge: SyncExpert
    encoder: FaceEncoder
    published: PublishedScorer | None = None
    inception: InceptionEncoder | None = None


@dataclass
class GroundTruth:
    """A source and what is measured of it once.

    Attributes:
        opening: (N,), its mouth's.
        embedding: (N, E), of its faces.
        features: by the key of a figure of whole systems, (N, D).
    """

    source: SourceVideo
    opening: np.ndarray
    embedding: np.ndarray
    features: dict[str, np.ndarray]

    @classmethod
    def of(cls, source: SourceVideo, instruments: Instruments) -> GroundTruth:
        """Measures the real video."""
        embedding = instruments.encoder.embed(source.faces)
        return cls(source, motion.opening(source.faces), embedding, features(source.faces, instruments))


def features(faces: np.ndarray, instruments: Instruments) -> dict[str, np.ndarray]:
    """For the distances between whole systems: (N, D) of each encoder by its figure's key."""
    found = {"frechet": instruments.encoder.features(faces)}
    if instruments.inception:
        found["fid"] = instruments.inception.features(faces)
    return found


def measure(row: ResultRow, path: Path, truth: GroundTruth, instruments: Instruments) -> FaceFootage:
    """Fills in a row's figures and curves from its video, and returns what is seen of it; not for stills.

    Raises:
        MediaError: see `footage.look`.
    """
    made = look(path, truth.source)
    opening = motion.opening(made.faces)
    real = truth.opening[: len(opening)]
    row.curves["opening"] = opening.tolist()
    if row.protocol == SILENT:
        row.figures |= dict(_silence(opening, real))
    else:
        row.curves["envelope"] = motion.envelope(_heard(made), len(opening)).tolist()
        row.figures |= dict(_motion(row, opening, real)) | dict(_picture(row, made, truth, instruments))
        said, row.curves["offsets"] = judge_sync(made.faces, made.samples, made.start, instruments.judge)
        row.figures |= said
        if instruments.published:
            row.figures |= published_sync(path, truth.source, made.samples, instruments.published)[0]
    return made


Figures = Iterator[tuple[str, float]]


def _heard(made: FaceFootage) -> np.ndarray:
    """The sound from the first measured frame on."""
    return made.samples[made.start * FRAME_SAMPLES :]


def _silence(opening: np.ndarray, real: np.ndarray) -> Figures:
    moving = motion.moving_share(opening)
    yield "moving", moving
    if (leak := motion.leak(moving, motion.moving_share(real))) is not None:
        yield "leak", leak


def _motion(row: ResultRow, opening: np.ndarray, real: np.ndarray) -> Figures:
    if row.protocol == MATCHED and not motion.at_rest(real):
        r, lag = motion.lagged_correlation(opening, real)
        yield "opening_r", r
        yield "opening_lag", float(lag)
    r, lag = motion.lagged_correlation(opening, np.array(row.curves["envelope"]))
    yield "sound_r", r
    yield "sound_lag", float(lag)
    if (articulation := motion.articulation(opening, real)) is not None:
        yield "articulation", articulation


def _picture(row: ResultRow, made: FaceFootage, truth: GroundTruth, instruments: Instruments) -> Figures:
    faces, real = made.faces, truth.source.faces[: len(made.faces)]
    if row.protocol == MATCHED:
        yield "psnr", picture.psnr(*(picture.part(each, picture.MOUTH) for each in (faces, real)))
        yield "ssim", picture.ssim(faces, real)
    yield "seam_colour", picture.seam_colour(faces, real)
    yield "identity", distance(instruments.encoder.embed(faces), truth.embedding)
    quiet = _quiet(made.samples, made.start, len(faces)) & _quiet(truth.source.samples, made.start, len(faces))
    for key, found in (
        ("sharpness", picture.sharpness(faces, real)),
        ("palest_lips", picture.palest_lips(faces, real)),
        ("seam_gradient", picture.seam_gradient(faces, real)),
        ("flicker", picture.flicker(faces, real, quiet)),
    ):
        if found is not None:
            yield key, found


def _quiet(samples: np.ndarray, start: int, frames: int) -> np.ndarray:
    """(frames,) bool: nobody is heard in a frame from `start` on, nor shortly before and after it."""
    speech = np.pad(speech_columns(samples) if len(samples) else np.zeros(1, bool), (0, 4 * (start + frames + AROUND)))
    shares = (speech_share(speech, max(k - AROUND, 0), k + AROUND + 1) for k in range(start, start + frames))
    return np.array([share == 0 for share in shares])
