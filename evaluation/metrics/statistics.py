"""Figures of clips to what a table says of them: means, ratios and differences, with intervals over clips."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from preprocessing.errors import UsageError

DRAWS = 2000  # of the bootstrap


class Interval(NamedTuple):
    """A mean over clips with its 95 % interval; of a single clip there is no interval, and both ends are None."""

    mean: float
    low: float | None
    high: float | None
    clips: int


def interval(values: Sequence[float] | np.ndarray) -> Interval | None:
    """The mean of (N,) figures, one a clip, with its 95 % bootstrap interval; None of none.

    It says how the mean would vary with other clips like these. Of a handful of clips it is too narrow, and clips of
    the same person are counted as if they were of several.

    Raises:
        UsageError: a figure is not finite: a clip without one is to be left out.
    """
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise UsageError("a figure that is not finite has no mean: leave its clip out")
    if not len(found):
        return None
    low, high = bootstrap(found) if len(found) > 1 else (None, None)
    return Interval(float(found.mean()), low, high, len(found))


def paired(one: Mapping[Hashable, float], two: Mapping[Hashable, float]) -> Interval | None:
    """The mean of `one` less `two` over the clips that both have, with its 95 % interval; None if they share none.

    The same clip is hard for both, so that their difference is known better than either mean: the two differ where
    the interval leaves out 0.

    Args:
        one, two: a figure by what names its clip.
    """
    return interval([one[clip] - two[clip] for clip in one if clip in two])


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = np.asarray, seed: int = 0
) -> tuple[float, float]:  # fmt: skip
    """The 95 % interval of a mean by drawing rows again, with replacement (percentile bootstrap, Efron 1979).

    Args:
        values: (N,) or (N, K), one row a clip; the figures of one clip stay together.
        statistic: of the K columns' means, (..., K) to (...), such as `ratio`.
    """
    chosen = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.percentile(statistic(values[chosen].mean(axis=1)), (2.5, 97.5))
    return float(low), float(high)


def ratio(means: np.ndarray) -> np.ndarray:
    """(..., 2) to the first by the second, nan where that is 0."""
    top, bottom = means[..., 0], means[..., 1]
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)
