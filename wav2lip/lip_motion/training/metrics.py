"""Metrics that compare predicted with real lip motion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from preprocessing.faces.mesh import lower_face
from syncnet.shape_expert import ShapeExpert, offset
from wav2lip.lip_motion.data.training_set import CLOSED, MotionExample, measured_rows
from wav2lip.lip_motion.model import LipMotionNet
from wav2lip.lip_motion.motion_config import context_rows
from wav2lip.lip_motion.shape_space import ShapeSpace
from wav2lip.lip_motion.silence import rest_in_silence

MIN_FRAMES = 8  # in silence and in speech, to measure motion in silence


def predict(
    network: LipMotionNet, space: ShapeSpace, item: MotionExample, encoder: str = "whisper", closing: bool = True
) -> np.ndarray:
    """Predicts (T, K) coefficients from a clip's audio; `closing` applies rest in silence and lip closure."""
    rows = context_rows(item.clip.features[encoder], 0, item.frames, network.config).astype(np.float32)
    network.eval()
    with torch.inference_mode():
        coefficients, logits = (part[0].numpy() for part in network(torch.from_numpy(rows)[None]))
    if closing:
        return rest_in_silence(coefficients, logits, item.talking, space, item.rest_gap / item.gain)
    return coefficients


def openings(space: ShapeSpace, item: MotionExample, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) mouth opening and (T,) width of the person with that motion, units; overlapping lips count as closed."""
    shape = item.clip.motion.rest[lower_face()] + space.displacement(coefficients, item.gain)
    lower, upper, right, left = (lower_face().tolist().index(row) for row in measured_rows())
    gap = shape[:, lower, 1] - shape[:, upper, 1]
    opening = np.where(gap > 0, np.linalg.norm(shape[:, lower, :2] - shape[:, upper, :2], axis=-1), 0)
    return opening, np.linalg.norm(shape[:, left, :2] - shape[:, right, :2], axis=-1)


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation of two (T,) curves; 0 if one of them is constant."""
    one, other = one - one.mean(), other - other.mean()
    size = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / size) if size > 1e-9 else 0.0


def clip_metrics(space: ShapeSpace, item: MotionExample, coefficients: np.ndarray) -> dict[str, float]:
    """Metrics of one clip by name; NaN where there are too few frames."""
    known, speech = item.known, item.speech
    opening, width = openings(space, item, coefficients)
    spoken = known & speech
    return {
        "opening_r": pearson(opening[known], item.opening[known]),
        "opening_r_speech": pearson(opening[spoken], item.opening[spoken]) if spoken.sum() > 20 else np.nan,
        "width_r": pearson(width[known], item.width[known]),
        "deviation": float(opening[known].std() / max(item.opening[known].std(), 1e-6)),
        "width_deviation": float(width[known].std() / max(item.width[known].std(), 1e-6)),
        **_closures(opening, item),
        **_silence_motion(opening, item),
    }


def _closures(opening: np.ndarray, item: MotionExample) -> dict[str, float]:
    """Recall of closures in speech within one frame, precision of the predicted ones, and recall at chance."""
    known, spoken = item.known, item.known & item.speech
    real = item.closed & spoken
    made = opening < CLOSED * max(np.percentile(opening[known], 95), 1e-6)
    near_made, near_real = (np.convolve(flags, np.ones(3), "same") > 0 for flags in (made, item.closed & known))
    made &= spoken
    return {
        "closures_kept": float(near_made[real].mean()) if real.sum() > 2 else np.nan,
        "closures_precision": float(near_real[made].mean()) if made.sum() > 2 else np.nan,
        "closures_chance": float(near_made[spoken].mean()) if spoken.any() else np.nan,
    }


def _silence_motion(opening: np.ndarray, item: MotionExample) -> dict[str, float]:
    """Mean speed of the opening in silence relative to that in speech, predicted and real."""
    both = item.known[1:] & item.known[:-1]
    silent, spoken = ~item.speech[1:] & both, item.speech[1:] & both
    if silent.sum() <= MIN_FRAMES or spoken.sum() <= MIN_FRAMES:
        return {"silence_motion": np.nan, "silence_motion_real": np.nan}
    ours, theirs = (np.abs(np.diff(curve)) for curve in (opening, item.opening))
    shares = (float(speed[silent].mean() / max(speed[spoken].mean(), 1e-6)) for speed in (ours, theirs))
    return dict(zip(("silence_motion", "silence_motion_real"), shares, strict=True))


def judge_offset(judge: ShapeExpert, rows: np.ndarray, coefficients: np.ndarray, counts: np.ndarray) -> int:
    """Lag in frames of (T, K) shapes behind (R, D) audio features, as estimated by the judge."""
    frames = len(coefficients)
    features = rows[np.clip(np.arange(2 * frames), 0, len(rows) - 1)].astype(np.float32)
    judge.eval()
    with torch.inference_mode():
        audio = judge.embed_audio(torch.from_numpy(features)[None])[0].numpy()
        shape = judge.embed_shape(torch.from_numpy(coefficients)[None])[0].numpy()
    return offset(audio, shape, counts)[0]


def summarize(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median of each metric over the clips that have it."""
    names = found[0].keys() if found else ()
    columns = {name: np.array([scores[name] for scores in found]) for name in names}
    return {name: float(np.nanmedian(column)) for name, column in columns.items() if not np.isnan(column).all()}


def score(values: Mapping[str, float]) -> float:
    """Overall score of the medians, at most 1: mean of opening correlation, width correlation and closure F1."""
    kept, precision = values.get("closures_kept", 0.0), values.get("closures_precision", 0.0)
    closures = 2 * kept * precision / (kept + precision) if kept + precision > 0 else 0.0
    return (values["opening_r"] + values["width_r"] + closures) / 3


def measure(
    items: Sequence[MotionExample], space: ShapeSpace, motion: Callable[[MotionExample], np.ndarray]
) -> dict[str, float]:
    """Median metrics over clips of the coefficients that `motion` predicts."""
    return summarize([clip_metrics(space, item, motion(item)) for item in items])
