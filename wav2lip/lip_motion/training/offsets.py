"""Finds recordings with audio-video offset by comparing the lips with a first model's predictions from the audio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from wav2lip.lip_motion.data.targets import at_times
from wav2lip.lip_motion.data.training_set import MotionExample
from wav2lip.lip_motion.shape_space import ShapeSpace

MAX_LAG, LAG_STEP = 8, 0.5  # frames: search range and resolution
LAGS = np.arange(-MAX_LAG, MAX_LAG + LAG_STEP / 2, LAG_STEP)
MIN_SHIFT = 1.0  # frames; smaller shifts are within the estimation error
MIN_GAIN, MIN_CORRELATION = 0.04, 0.35  # minimum correlation gain and correlation of a shift
MIN_SHARED = 6  # speakers with this many recordings are assumed to have one offset for all
COMPARED = 6  # leading coefficients to compare
MIN_FRAMES = 30


def lag_curve(predicted: np.ndarray, item: MotionExample, space: ShapeSpace) -> np.ndarray:
    """(L,) correlation of a prediction (T, K) with the real motion `LAGS` frames later; NaN with too few frames."""
    position, axes = np.arange(item.frames, dtype=np.float64), slice(0, COMPARED)
    curve = np.full(len(LAGS), np.nan)
    for index, lag in enumerate(LAGS):
        true, known = at_times(item.coefficients, item.known, position, position + lag)
        known &= (position + lag >= 0) & (position + lag <= item.frames - 1)
        if known.sum() >= MIN_FRAMES:
            curve[index] = _correlation(predicted[known, axes], true[known, axes])
    return curve


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(0), other - other.mean(0)
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum() + 1e-9))


def find_offsets(
    predictions: Sequence[np.ndarray], items: Sequence[MotionExample], space: ShapeSpace
) -> dict[str, float]:
    """Recording → frames at 25 fps by which its video is late, for those that are off by a frame or more.

    A speaker's recordings share one offset if there are many of them.
    """
    curves = {item.clip.name: lag_curve(motion, item, space) for motion, item in zip(predictions, items, strict=True)}
    names: dict[str, list[str]] = defaultdict(list)
    for item in items:
        names[item.clip.speaker].append(item.clip.name)
    groups = [
        group for own in names.values() for group in ([own] if len(own) >= MIN_SHARED else [[name] for name in own])
    ]
    offsets: dict[str, float] = {}
    for group in groups:
        if lag := best_lag(np.nanmean([curves[name] for name in group], axis=0)):
            offsets |= dict.fromkeys(group, lag)
    return offsets


def best_lag(curve: np.ndarray) -> float:
    """The lag with the highest of (L,) correlations if it is clearly better than no lag, else 0."""
    if np.isnan(curve).all():
        return 0.0
    best, none = int(np.nanargmax(curve)), float(curve[len(LAGS) // 2])
    clear = curve[best] >= MIN_CORRELATION and curve[best] - none >= MIN_GAIN
    return float(LAGS[best]) if clear and abs(LAGS[best]) >= MIN_SHIFT else 0.0


def combine_offsets(offsets: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    """Adds newly found offsets to earlier ones; zeros are dropped."""
    both = {name: offsets.get(name, 0.0) + more.get(name, 0.0) for name in offsets.keys() | more.keys()}
    return {name: lag for name, lag in sorted(both.items()) if lag}
