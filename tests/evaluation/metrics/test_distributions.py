"""Distances of feature sets against closed forms and sets whose answer is known."""

import numpy as np
import pytest

from evaluation.metrics.distributions import (
    classifier_accuracy,
    copied_share,
    different_bins,
    distribution_metrics,
    kernel_distance,
    nearest,
    precision_recall,
    squared_discrepancy,
)


def normal(seed: int, rows: int, mean: float = 0.0, spread: float = 1.0, dimension: int = 6) -> np.ndarray:
    return (np.random.default_rng(seed).normal(mean, spread, (rows, dimension))).astype(np.float32)


def test_the_discrepancy_by_hand():
    one, other = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    within = (0 * 1 + 1) ** 3 + (2 * 3 + 1) ** 3
    across = np.mean([(a * b + 1) ** 3 for a in (0, 1) for b in (2, 3)])
    assert squared_discrepancy(one, other) == pytest.approx(within - 2 * across)


def test_the_kernel_distance_of_shifted_normals_is_that_of_their_moments():
    """With x·y / D small, the kernel's mean is that of 1 + 3 t + 3 t² + t³ with t = x·y / D: known from moments."""
    one, other, shift = normal(0, 40000, 0.0, 1.0, 1), normal(1, 40000, 0.5, 1.0, 1), 0.5

    def expected(a: float, b: float) -> float:  # independent normals with these means and variance 1
        second, third = (a * a + 1) * (b * b + 1), (a**3 + 3 * a) * (b**3 + 3 * b)
        return 1 + 3 * a * b + 3 * second + third

    truth = expected(0, 0) + expected(shift, shift) - 2 * expected(0, shift)
    found = np.mean([kernel_distance(one[k::10], other[k::10], k) for k in range(3)])
    assert found == pytest.approx(truth, rel=0.15)


def test_equal_distributions_have_no_kernel_distance_on_average():
    found = [kernel_distance(normal(2 * k, 300), normal(2 * k + 1, 300)) for k in range(20)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 0.05
    assert kernel_distance(normal(0, 300), normal(1, 300, 1.0)) > 1
    assert kernel_distance(normal(0, 900), normal(1, 700), 3) == kernel_distance(normal(0, 900), normal(1, 700), 3)


def test_precision_falls_for_wrong_pictures_and_recall_for_missing_ones():
    real = np.concatenate([normal(0, 300), normal(1, 300, 20.0)])
    half = normal(2, 300)
    wrong = np.concatenate([normal(3, 300), normal(4, 300, 20.0), normal(5, 600, -40.0)])
    assert precision_recall(real, real) == (1, 1)
    alike, missing, added = (precision_recall(made, real) for made in (normal(9, 300), half, wrong))
    assert alike is not None
    assert missing is not None
    assert added is not None
    assert missing.precision > 0.85
    assert missing.recall == pytest.approx(0.45, abs=0.07)
    assert added.precision == pytest.approx(0.47, abs=0.05)
    assert added.recall > 0.85
    assert precision_recall(real[:3], real) is None


def test_bins_that_are_missing_are_counted():
    centers = np.array([0.0, 10, 20, 30])[:, None] * np.ones(3)
    rng = np.random.default_rng(0)
    real, same = (np.concatenate([rng.normal(center, 0.5, (25, 3)) for center in centers]) for _ in range(2))
    assert different_bins(same, real) == 0
    assert different_bins(same[:75], real) == pytest.approx(0.25)  # the others are 9 % more frequent: not significant
    assert different_bins(np.repeat(same[:25], 8, axis=0), real) == 1
    assert different_bins(same, real[:99]) is None


def test_a_classifier_is_as_right_as_it_can_be():
    """Two normals a distance 2 apart: the best accuracy is that of a threshold at the middle."""
    made, real = ([normal(10 * side + k, 400, 2.0 * side, 1.0, 1) for k in range(4)] for side in (1, 0))
    assert classifier_accuracy(made, real) == pytest.approx(0.8413, abs=0.02)
    same = [normal(50 + k, 400, 0.0, 1.0, 1) for k in range(4)]
    assert classifier_accuracy(same, real) == pytest.approx(0.5, abs=0.04)
    assert classifier_accuracy(made[:1], real[:1]) is None


def test_a_classifier_is_not_tested_on_clips_that_it_knows():
    """Each clip has a direction of its own: a classifier that had seen it would be right, another one cannot be."""
    rng = np.random.default_rng(0)
    marks = [rng.normal(0, 30, 40) for _ in range(12)]
    made = [mark + rng.normal(0, 1, (30, 40)) for mark in marks[:6]]
    real = [mark + rng.normal(0, 1, (30, 40)) for mark in marks[6:]]
    found = classifier_accuracy(made, real)
    assert found is not None
    assert found < 0.85


def test_only_what_the_clips_suffice_for_is_measured():
    few = [normal(0, 3)]
    assert dict(distribution_metrics(few, few)).keys() == {"kernel"}
    made, real = ([normal(10 * side + k, 60) for k in range(3)] for side in (0, 1))
    assert dict(distribution_metrics(made, real)).keys() == {"kernel", "precision", "recall", "bins", "classifier"}


def test_neighbors_are_those_of_a_line():
    found, distances = nearest(np.array([[2.1, 0], [0, 0]]), np.array([[0.0, 0], [2, 0], [5, 0]]), 2)
    assert found.tolist() == [[1, 0], [0, 1]]
    np.testing.assert_allclose(distances, [[0.1, 2.1], [0, 2]], atol=1e-6)


def test_copies_are_told_from_new_pictures():
    rng = np.random.default_rng(0)
    training, real, new = (rng.normal(size=(count, 6)) for count in (300, 400, 400))
    copies = training[:200] + 0.01 * rng.normal(size=(200, 6))
    assert copied_share(copies, real, training) == 1
    assert copied_share(new, real, training) == pytest.approx(0.05, abs=0.03)
    assert copied_share(np.concatenate([copies, new[:200]]), real, training) == pytest.approx(0.525, abs=0.03)
