"""Nearest neighbors of generated pictures among those of the training: does a generator copy what it has seen?"""

from __future__ import annotations

import numpy as np

COPY_PERCENTILE = 5  # of the held-out real pictures' distances


def nearest(made: np.ndarray, training: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The training pictures nearest to each generated one.

    Args:
        made, training: (N, D) and (M, D) features.
        count: neighbors of each, at most M.

    Returns:
        (N, count) indices and Euclidean distances, nearest first.
    """
    squares = (made**2).sum(1)[:, None] + (training**2).sum(1) - 2 * made @ training.T
    found = np.argsort(squares, axis=1, kind="stable")[:, :count]
    return found, np.sqrt(np.maximum(np.take_along_axis(squares, found, axis=1), 0))


def copied_share(made: np.ndarray, real: np.ndarray, training: np.ndarray) -> float:
    """Share of generated pictures that are nearer to a training picture than 95 % of held-out real ones are.

    0.05 for pictures as new as real ones, 1 for copies. Blurred pictures are nearer to everything, too, so look at
    them.

    Args:
        made, real, training: (N, D), (K, D) and (M, D) features; `real` are pictures of people not in training.
    """
    limit = np.percentile(nearest(real, training)[1], COPY_PERCENTILE)
    return float((nearest(made, training)[1] < limit).mean())
