"""Distances between the features of generated and of real pictures that show what a Fréchet distance hides.

It assumes normal distributions, and is one number for two different faults: pictures that look wrong, and pictures that
all look the same. The kernel distance assumes nothing; precision and recall tell the faults apart; bins show which
kinds of real pictures are missing; a classifier says how easily the two are told apart at all.

Features are given by clip, (n, D) each, because frames of a clip are alike: a classifier is tested on clips that it has
not seen. The caller chooses the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

BLOCK, BLOCKS = 400, 20  # frames in a block of the kernel distance, and blocks that are averaged
NEIGHBORS = 3  # of precision and recall
MAX_FRAMES = 2000  # of a side in precision and recall, whose cost grows with its square
BIN_FRAMES, MAX_BINS = 25, 40  # real frames for each bin, and bins at most
MIN_BINS = 4
COPY_PERCENTILE = 5  # of the held-out real frames' distances to the training frames
Z_95 = 1.96
FOLDS = 4  # of the classifier's cross-validation

Clips = Sequence[np.ndarray]


def distribution_metrics(made: Clips, real: Clips) -> Iterator[tuple[str, float]]:
    """Those of this module's metrics that the clips suffice for, by the keys of the report's columns."""
    ours, theirs = np.concatenate(made), np.concatenate(real)
    if min(len(ours), len(theirs)) > 1:
        yield "kernel", 1000 * kernel_distance(ours, theirs)
    if (coverage := precision_recall(ours, theirs)) is not None:
        yield from coverage._asdict().items()
    if (bins := different_bins(ours, theirs)) is not None:
        yield "bins", bins
    if (accuracy := classifier_accuracy(made, real)) is not None:
        yield "classifier", accuracy


def kernel_distance(made: np.ndarray, real: np.ndarray, seed: int = 0) -> float:
    """The kernel Inception distance's estimator (KID, Bińkowski et al., arXiv 1801.01401, section 4).

    The unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)³, averaged over blocks of frames.

    Args:
        made, real: (N, D) and (M, D) features, two rows or more.
        seed: of the blocks, which are the whole sets where those are small.

    Returns:
        0 on average for equal distributions, and then negative as often as not.
    """
    size, rng = min(len(made), len(real), BLOCK), np.random.default_rng(seed)
    blocks = 1 if size == len(made) == len(real) else BLOCKS
    sets = ((rng.permutation(len(made))[:size], rng.permutation(len(real))[:size]) for _ in range(blocks))
    return float(np.mean([squared_discrepancy(made[ours], real[theirs]) for ours, theirs in sets]))


def squared_discrepancy(one: np.ndarray, other: np.ndarray) -> float:
    """The unbiased estimate of the squared MMD of (N, D) and (N, D) features (Gretton et al. 2012, equation 3)."""
    one, other, size = one.astype(np.float64), other.astype(np.float64), len(one)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = sum((np.sum(k) - np.trace(k)) / (size * (size - 1)) for k in (kernel(one, one), kernel(other, other)))
    return float(within - 2 * kernel(one, other).mean())


class Coverage(NamedTuple):
    """Precision and recall.

    Attributes:
        precision: fraction of the generated frames that lie among the real ones: they look real.
        recall: fraction of the real frames that lie among the generated ones: nothing is missing.
    """

    precision: float
    recall: float


def precision_recall(made: np.ndarray, real: np.ndarray, seed: int = 0, neighbors: int = NEIGHBORS) -> Coverage | None:
    """Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991).

    A frame lies among a set if it is no further from one of its frames than that frame's `neighbors`-th neighbor.

    Args:
        made, real: (N, D) and (M, D) features; at most `MAX_FRAMES` rows of each are used.

    Returns:
        None if a side has no more than `neighbors` rows.
    """
    rng = np.random.default_rng(seed)
    made, real = (rows[rng.permutation(len(rows))[:MAX_FRAMES]] for rows in (made, real))
    if min(len(made), len(real)) <= neighbors:
        return None
    across = _distances(made, real)
    reach_made, reach_real = (np.sort(_distances(rows, rows), axis=1)[:, neighbors] for rows in (made, real))
    precision, recall = (across <= reach_real).any(axis=1), (across <= reach_made[:, None]).any(axis=0)
    return Coverage(float(precision.mean()), float(recall.mean()))


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, M) Euclidean distances; exactly 0 on the diagonal of a set with itself."""
    from scipy.spatial.distance import cdist

    return cdist(one.astype(np.float64), other.astype(np.float64))


def nearest(made: np.ndarray, training: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The training frames nearest to each generated one: does a generator copy what it has seen?

    Args:
        made, training: (N, D) and (M, D) features.
        count: neighbors of each, at most M.

    Returns:
        (N, count) indices and Euclidean distances, nearest first.
    """
    distances = _distances(made, training)
    found = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return found, np.take_along_axis(distances, found, axis=1)


def copied_share(made: np.ndarray, real: np.ndarray, training: np.ndarray) -> float:
    """The fraction of generated frames that are nearer to a training frame than 95 % of held-out real ones are.

    0.05 for frames as new as real ones, 1 for copies. Blurred frames are nearer to everything, too, so look at them.

    Args:
        made, real, training: (N, D), (K, D) and (M, D) features; `real` are frames of people not in training.
    """
    limit = np.percentile(nearest(real, training)[1], COPY_PERCENTILE)
    return float((nearest(made, training)[1] < limit).mean())


def different_bins(made: np.ndarray, real: np.ndarray, seed: int = 0) -> float | None:
    """The fraction of statistically different bins (NDB, Richardson and Weiss, arXiv 1805.12462).

    The real frames are clustered by k-means; a bin is different if the share of the generated frames in it differs from
    that of the real ones in a test of two proportions at 5 %. Frames of a clip are not independent, as that test
    supposes, so that even a second set of real clips has more different bins than 5 %: compare systems by it.

    Args:
        made, real: (N, D) and (M, D) features.

    Returns:
        None with fewer than `BIN_FRAMES` x `MIN_BINS` real frames or no generated ones.
    """
    from sklearn.cluster import KMeans

    bins = min(MAX_BINS, len(real) // BIN_FRAMES)
    if bins < MIN_BINS or not len(made):
        return None
    clusters = KMeans(bins, n_init=3, random_state=seed).fit(real)
    shares = [np.bincount(clusters.predict(rows), minlength=bins) / len(rows) for rows in (made, real)]
    pooled = (shares[0] * len(made) + shares[1] * len(real)) / (len(made) + len(real))
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(made) + 1 / len(real)))
    return float((np.abs(shares[0] - shares[1]) > Z_95 * np.maximum(error, 1e-12)).mean())


def classifier_accuracy(made: Clips, real: Clips, seed: int = 0) -> float | None:
    """The accuracy of a classifier two-sample test (Lopez-Paz and Oquab, arXiv 1610.06545).

    Logistic regression tells generated from real frames, cross-validated so that a clip and its real counterpart are
    never in both training and test.

    Args:
        made, real: features (n, D) of each clip, in the same order.

    Returns:
        0.5: not told apart; 1: always. None with fewer than two clips.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(made) < 2:
        return None
    rows = np.concatenate([*made, *real])
    labels = np.repeat([1, 0], [sum(map(len, side)) for side in (made, real)])
    groups = np.concatenate([np.full(len(clip), k) for side in (made, real) for k, clip in enumerate(side)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, random_state=seed))
    found = cross_val_predict(model, rows, labels, groups=groups, cv=GroupKFold(min(FOLDS, len(made))))
    weights = np.where(labels, (labels == 0).sum(), labels.sum())  # both sides count alike
    return float(np.average(found == labels, weights=weights))
