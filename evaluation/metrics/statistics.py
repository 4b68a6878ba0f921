"""Means, ratios and paired differences of per-clip metrics, with bootstrap intervals over clips."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from preprocessing.errors import UsageError

DRAWS = 2000  # bootstrap draws


class Interval(NamedTuple):
    """A mean over clips with its 95 % interval; for a single clip both bounds are None."""

    mean: float
    low: float | None
    high: float | None
    clips: int


def interval(values: Sequence[float] | np.ndarray) -> Interval | None:
    """The mean of (N,) values, one per clip, with its 95 % bootstrap interval; None if there are none.

    It shows how the mean would vary with other clips of the same kind. With a handful of clips it is too narrow, and
    clips of the same person are treated as independent.

    Raises:
        UsageError: a value is not finite; exclude clips without a value.
    """
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise UsageError("values must be finite: exclude clips without a value")
    if not len(found):
        return None
    low, high = bootstrap(found) if len(found) > 1 else (None, None)
    return Interval(float(found.mean()), low, high, len(found))


def paired(one: Mapping[Hashable, float], two: Mapping[Hashable, float]) -> Interval | None:
    """The mean of `one` - `two` over their common clips, with its 95 % interval; None if they share none.

    Clips vary in difficulty for both alike, so the difference is known better than either mean. The two differ if the
    interval excludes 0.

    Args:
        one, two: values by clip.
    """
    return interval([one[clip] - two[clip] for clip in one if clip in two])


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = np.asarray, seed: int = 0
) -> tuple[float, float]:  # fmt: skip
    """The 95 % interval of a mean by resampling rows with replacement (percentile bootstrap, Efron 1979).

    Args:
        values: (N,) or (N, K), one row per clip; the values of one clip stay together.
        statistic: function of the K column means, (..., K) to (...), such as `ratio`.
    """
    chosen = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.percentile(statistic(values[chosen].mean(axis=1)), (2.5, 97.5))
    return float(low), float(high)


def ratio(means: np.ndarray) -> np.ndarray:
    """Divide the first of (..., 2) by the second; nan where that is 0."""
    top, bottom = means[..., 0], means[..., 1]
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)
