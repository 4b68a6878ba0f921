"""Fréchet distance between two sets of image features, each modeled as a normal distribution.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (arXiv 1706.08500), equation 6, after Dowson and Landau,
"The Fréchet distance between multivariate normal distributions" (1982). The caller chooses the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from preprocessing.errors import UsageError

MAX_CACHED_DIM = 256  # up to this dimension the moments of every clip are kept
DRAWS, FEW_DRAWS = 200, 20  # bootstrap draws up to MAX_CACHED_DIM; above it, where a draw takes seconds
Z_95 = 1.96  # a normal distribution has 95 % of its mass within this many standard deviations


@dataclass(frozen=True)
class Moments:
    """Sums that a mean and a covariance are computed from; the sums of several clips can be added.

    Attributes:
        count: number of frames, counting repeats.
        total: (D,) float64, sum of the features.
        outer: (D, D) float64, sum of their outer products.
    """

    count: float
    total: np.ndarray
    outer: np.ndarray

    @classmethod
    def from_features(cls, features: np.ndarray, times: np.ndarray | None = None) -> Moments:
        """Moments of (N, D) features, each counted `times` (N,), or once if None."""
        values = features.astype(np.float64)
        weights = np.ones(len(values)) if times is None else times.astype(np.float64)
        return cls(float(weights.sum()), weights @ values, (values * weights[:, None]).T @ values)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __mul__(self, times: float) -> Moments:
        return Moments(self.count * times, self.total * times, self.outer * times)

    @property
    def mean(self) -> np.ndarray:
        """(D,)."""
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased like numpy.cov; requires two frames."""
        return (self.outer - np.outer(self.total, self.mean)) / (self.count - 1)


def frechet_distance(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """|m - m'|² + tr(C + C' - 2 (C C')^½), the squared distance, which is what is usually reported as FID.

    The trace of the root is computed from the eigenvalues of C^½ C' C^½, which equal those of C C' but come from a
    symmetric matrix, so there are no imaginary parts and singular covariances are safe.

    Args:
        mean, other_mean: (D,).
        cov, other_cov: (D, D), symmetric, positive semidefinite up to rounding.

    Returns:
        0 or more.
    """
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    product = root @ other_cov @ root
    shared = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
    gap = np.square(np.asarray(mean, np.float64) - other_mean).sum()
    return float(max(gap + np.trace(cov) + np.trace(other_cov) - 2 * shared, 0.0))


def moments_distance(made: Moments, real: Moments) -> float:
    """`frechet_distance` from the moments of two sets."""
    return frechet_distance(made.mean, made.covariance, real.mean, real.covariance)


def frechet_interval(
    made: Sequence[np.ndarray], real: Sequence[np.ndarray], seed: int = 0, draws: int | None = None
) -> tuple[float, float, float] | None:  # fmt: skip
    """The Fréchet distance over all frames, with its 95 % interval over clips.

    Bootstrap over clips, drawing each generated clip together with its real one. A draw contains fewer distinct clips,
    which by itself raises the distance. Therefore only the spread of the draws is used, not their location: the
    interval is the overall distance ± 1.96 standard deviations of the draws, clipped at 0.

    Args:
        made, real: features (n, D) of each clip, in the same order.
        seed: of the bootstrap.
        draws: None for DRAWS, or FEW_DRAWS if D exceeds MAX_CACHED_DIM.

    Returns:
        (value, low, high), or None if either side has fewer than 2 D frames. The distance falls with the number of
        frames; below that limit it reflects their number more than their content.

    Raises:
        UsageError: the lists differ in length, or the features in dimension.
    """
    dimensions = {each.shape[1:] for each in (*made, *real)}
    if len(made) != len(real) or len(dimensions) > 1:
        raise UsageError(
            f"generated and real clips must match in number and feature dimension: {len(made)} against {len(real)}"
        )
    if not made or min(sum(map(len, made)), sum(map(len, real))) < 2 * made[0].shape[1]:
        return None
    sides = [_ClipMoments(made), _ClipMoments(real)]
    value = moments_distance(*(side.moments(np.ones(len(made), int)) for side in sides))
    rng = np.random.default_rng(seed)
    count = draws or (DRAWS if made[0].shape[1] <= MAX_CACHED_DIM else FEW_DRAWS)
    chosen = [np.bincount(rng.integers(len(made), size=len(made)), minlength=len(made)) for _ in range(count)]
    spread = Z_95 * float(np.std([moments_distance(*(side.moments(times) for side in sides)) for times in chosen]))
    return value, max(value - spread, 0.0), value + spread


class _ClipMoments:
    """Moments of one side's clips, each weighted by how often it is drawn."""

    def __init__(self, features: Sequence[np.ndarray]) -> None:
        self.lengths = [len(each) for each in features]
        self.all = np.concatenate(features)
        self.cached = [Moments.from_features(each) for each in features] if self.all.shape[1] <= MAX_CACHED_DIM else []

    def moments(self, times: np.ndarray) -> Moments:
        """Moments with clip k counted times[k]."""
        if self.cached:
            return reduce(add, (each * float(n) for each, n in zip(self.cached, times, strict=True) if n))
        return Moments.from_features(self.all, np.repeat(times, self.lengths))
