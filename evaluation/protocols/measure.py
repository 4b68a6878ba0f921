"""All metrics of one video, measured against its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from evaluation.metrics import image_quality, motion
from evaluation.metrics.face_crops import FaceFootage, SourceVideo, read_footage
from evaluation.metrics.face_encoder import FaceEncoder, identity_distance
from evaluation.metrics.inception import InceptionEncoder
from evaluation.metrics.sync import judge_sync, published_sync
from evaluation.report.results import MATCHED, SILENT, ResultRow
from preprocessing.dataset.segmentation import FRAME_SAMPLES
from preprocessing.media.speech_activity import speech_columns
from syncnet.data import speech_share
from syncnet.scoring.lse import PublishedScorer
from syncnet.sync_expert import SyncExpert

MOUTH_FEATURES = "mouth"  # the encoder's features of the mouth square alone
QUIET_MARGIN = 2  # frames on either side of a quiet frame that are free of speech as well


@dataclass(frozen=True)
class MetricNetworks:
    """Networks that the metrics use.

    Attributes:
        judge: our sync expert, independent of the generator's training.
        encoder: our face encoder.
        published: syncnet_python's network; None if not given.
        inception: FID's network; None if not given.
    """

    judge: SyncExpert
    encoder: FaceEncoder
    published: PublishedScorer | None = None
    inception: InceptionEncoder | None = None


@dataclass
class GroundTruth:
    """A source video and its measurements, computed once.

    Attributes:
        opening: (N,) mouth opening.
        embedding: (N, E) face embeddings.
        features: (N, D) features by the key of a system-level metric.
    """

    source: SourceVideo
    opening: np.ndarray
    embedding: np.ndarray
    features: dict[str, np.ndarray]

    @classmethod
    def measure(cls, source: SourceVideo, networks: MetricNetworks) -> GroundTruth:
        """Measure the real video."""
        embedding = networks.encoder.embed(source.faces)
        return cls(source, motion.opening(source.faces), embedding, features(source.faces, networks))


def features(faces: np.ndarray, networks: MetricNetworks) -> dict[str, np.ndarray]:
    """Features for system-level distances: (N, D) by metric key; `MOUTH_FEATURES` serve several metrics."""
    mouths = image_quality.crop_box(faces, image_quality.MOUTH)
    scaled = np.stack([cv2.resize(mouth, faces.shape[2:0:-1], interpolation=cv2.INTER_CUBIC) for mouth in mouths])
    found = {"frechet": networks.encoder.features(faces), MOUTH_FEATURES: networks.encoder.features(scaled)}
    if networks.inception:
        found["fid"] = networks.inception.features(faces)
    return found


def measure(row: ResultRow, path: Path, truth: GroundTruth, networks: MetricNetworks) -> FaceFootage:
    """Fill in a row's metrics and curves from its video and return its footage; not for stills.

    Raises:
        MediaError: see `face_crops.read_footage`.
    """
    made = read_footage(path, truth.source)
    opening = motion.opening(made.faces)
    real = truth.opening[: len(opening)]
    row.curves["opening"] = opening.tolist()
    if row.protocol == SILENT:
        row.figures |= dict(_silence_metrics(opening, real))
    else:
        row.curves["envelope"] = motion.envelope(_run_audio(made), len(opening)).tolist()
        row.figures |= dict(_motion_metrics(row, opening, real))
        row.figures |= dict(_image_metrics(row, made, truth, networks))
        scores, row.curves["offsets"] = judge_sync(made.faces, made.samples, made.start, networks.judge)
        row.figures |= scores
        if networks.published:
            row.figures |= published_sync(path, truth.source, made.samples, networks.published)[0]
    return made


Figures = Iterator[tuple[str, float]]


def _run_audio(made: FaceFootage) -> np.ndarray:
    """The audio from the first measured frame on."""
    return made.samples[made.start * FRAME_SAMPLES :]


def _silence_metrics(opening: np.ndarray, real: np.ndarray) -> Figures:
    moving = motion.moving_share(opening)
    yield "moving", moving
    if (leak := motion.leak(moving, motion.moving_share(real))) is not None:
        yield "leak", leak


def _motion_metrics(row: ResultRow, opening: np.ndarray, real: np.ndarray) -> Figures:
    if row.protocol == MATCHED and not motion.at_rest(real):
        r, lag = motion.lagged_correlation(opening, real)
        yield "opening_r", r
        yield "opening_lag", float(lag)
    r, lag = motion.lagged_correlation(opening, np.array(row.curves["envelope"]))
    yield "sound_r", r
    yield "sound_lag", float(lag)
    if (articulation := motion.articulation(opening, real)) is not None:
        yield "articulation", articulation


def _image_metrics(row: ResultRow, made: FaceFootage, truth: GroundTruth, networks: MetricNetworks) -> Figures:
    faces, real = made.faces, truth.source.faces[: len(made.faces)]
    if row.protocol == MATCHED:
        yield "psnr", image_quality.psnr(*(image_quality.crop_box(each, image_quality.MOUTH) for each in (faces, real)))
        yield "ssim", image_quality.ssim(faces, real)
    yield "seam_colour", image_quality.seam_color(faces, real)
    yield "identity", identity_distance(networks.encoder.embed(faces), truth.embedding)
    quiet = _quiet(made.samples, made.start, len(faces)) & _quiet(truth.source.samples, made.start, len(faces))
    for key, found in (
        ("sharpness", image_quality.sharpness(faces, real)),
        ("palest_lips", image_quality.lip_redness(faces, real)),
        ("seam_gradient", image_quality.seam_gradient(faces, real)),
        ("flicker", image_quality.flicker(faces, real, quiet)),
    ):
        if found is not None:
            yield key, found


def _quiet(samples: np.ndarray, start: int, frames: int) -> np.ndarray:
    """(frames,) bool, from frame `start` on: no speech in the frame nor within QUIET_MARGIN frames of it."""
    margin = QUIET_MARGIN
    speech = np.pad(speech_columns(samples) if len(samples) else np.zeros(1, bool), (0, 4 * (start + frames + margin)))
    shares = (speech_share(speech, max(k - margin, 0), k + margin + 1) for k in range(start, start + frames))
    return np.array([share == 0 for share in shares])
