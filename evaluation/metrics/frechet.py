"""The Fréchet distance between two sets of pictures' features, each seen as a normal distribution.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (arXiv 1706.08500), equation 6, after Dowson and Landau,
"The Fréchet distance between multivariate normal distributions" (1982). What the features are is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from preprocessing.errors import UsageError

SMALL = 256  # dimensions up to which the products of every clip are kept
DRAWS, FEW_DRAWS = 200, 20  # of the bootstrap: up to SMALL dimensions; above, where one takes seconds
NORMAL = 1.96  # standard deviations to either side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Moments:
    """What a mean and a covariance are made of, so that clips can be added up.

    Attributes:
        count: number of pictures; a picture may count several times.
        total: (D,) float64, the features' sum.
        outer: (D, D) float64, the sum of their outer products.
    """

    count: float
    total: np.ndarray
    outer: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, times: np.ndarray | None = None) -> Moments:
        """Of (N, D) features, each counted `times` (N,), None: once."""
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
        """(D, D), unbiased, as numpy.cov has it; needs two pictures."""
        return (self.outer - np.outer(self.total, self.mean)) / (self.count - 1)


def frechet_distance(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """|m - m'|² + tr(C + C' - 2 (C C')^½), as everybody reports it: the square of the distance, not the distance.

    The trace of the root is taken from the eigenvalues of C^½ C' C^½, which are those of C C' but come from a symmetric
    matrix: no imaginary parts, and no trouble where a covariance is singular.

    Args:
        mean, other_mean: (D,).
        cov, other_cov: (D, D), symmetric, no negative eigenvalues beyond rounding.

    Returns:
        0 or more.
    """
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    product = root @ other_cov @ root
    shared = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
    gap = np.square(np.asarray(mean, np.float64) - other_mean).sum()
    return float(max(gap + np.trace(cov) + np.trace(other_cov) - 2 * shared, 0.0))


def distance_of(made: Moments, real: Moments) -> float:
    """`frechet_distance` of two sets of pictures."""
    return frechet_distance(made.mean, made.covariance, real.mean, real.covariance)


def frechet_interval(
    made: Sequence[np.ndarray], real: Sequence[np.ndarray], seed: int = 0, draws: int | None = None
) -> tuple[float, float, float] | None:  # fmt: skip
    """The Fréchet distance of all pictures together, with its 95 % interval over clips.

    Clips are drawn anew with replacement, a made one together with its real one. A draw holds fewer different clips,
    which by itself raises the distance: the draws' spread is used, their place is not, and the interval is the distance
    of all plus and minus 1.96 of their standard deviations, at 0 or above.

    Args:
        made, real: features (n, D) of each clip, those of the same clip at the same place.
        seed: of the draws.
        draws: None: DRAWS, or FEW_DRAWS where D is beyond SMALL.

    Returns:
        (value, low, high); None where either side has fewer than 2 D pictures, too few for a covariance: the distance
        falls as their number rises, and so far below it says more about that than about them.

    Raises:
        UsageError: the lists are not equally long, or their features not of one dimension.
    """
    dimensions = {each.shape[1:] for each in (*made, *real)}
    if len(made) != len(real) or len(dimensions) > 1:
        raise UsageError(f"{len(made)} made clips need as many real ones with like features, not {len(real)}")
    if not made or min(sum(map(len, made)), sum(map(len, real))) < 2 * made[0].shape[1]:
        return None
    sides = [_Clips(made), _Clips(real)]
    value = distance_of(*(side.moments(np.ones(len(made), int)) for side in sides))
    rng = np.random.default_rng(seed)
    count = draws or (DRAWS if made[0].shape[1] <= SMALL else FEW_DRAWS)
    chosen = [np.bincount(rng.integers(len(made), size=len(made)), minlength=len(made)) for _ in range(count)]
    spread = NORMAL * float(np.std([distance_of(*(side.moments(times) for side in sides)) for times in chosen]))
    return value, max(value - spread, 0.0), value + spread


class _Clips:
    """One side's clips, summed up as often as each is drawn."""

    def __init__(self, features: Sequence[np.ndarray]) -> None:
        self.lengths = [len(each) for each in features]
        self.all = np.concatenate(features)
        self.small = [Moments.of(each) for each in features] if self.all.shape[1] <= SMALL else []

    def moments(self, times: np.ndarray) -> Moments:
        """With clip k counted times[k]."""
        if self.small:
            return reduce(add, (each * float(n) for each, n in zip(self.small, times, strict=True) if n))
        return Moments.of(self.all, np.repeat(times, self.lengths))
