"""Intervals over clips: against textbook formulas, hand-computed values and empty input."""

import numpy as np
import pytest

from evaluation.metrics.statistics import Interval, bootstrap, interval, paired, ratio


def test_the_bootstrap_of_the_mean_is_as_wide_as_the_textbooks():
    values = np.random.default_rng(1).normal(5, 2, 100)
    low, high = bootstrap(values)
    error = values.std() / 10
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.05)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.05)
    assert bootstrap(values) == (low, high)
    assert bootstrap(np.full(4, 3.0)) == (3, 3)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(2)
    found = [bootstrap(rng.normal(0, 1, 40), seed=k) for k in range(200)]
    assert 0.88 < np.mean([low < 0 < high for low, high in found]) < 0.99


def test_a_ratio_keeps_its_pairs_together():
    pairs = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    assert ratio(pairs.mean(axis=0)) == 0.5
    assert bootstrap(pairs, ratio) == (0.5, 0.5)
    assert np.array_equal(ratio(np.array([[3.0, 2.0], [0.0, 0.0]])), [1.5, np.nan], equal_nan=True)


def test_an_interval_says_of_how_many_clips_it_is():
    values = [1.0, 2.0, 6.0]
    assert interval(values) == Interval(3.0, *bootstrap(np.array(values)), 3)
    assert interval([4.0]) == Interval(4.0, None, None, 1)
    assert interval([]) is None
    with pytest.raises(ValueError, match="exclude clips without a value"):
        interval([1.0, np.nan])


def test_differences_are_of_the_clips_that_both_have():
    one, two = {"a": 1.0, "b": 5.0, "c": 9.0, "d": 100.0}, {"c": 8.0, "b": 4.0, "a": 0.0, "e": -100.0}
    assert paired(one, two) == Interval(1.0, 1.0, 1.0, 3)
    assert paired(two, one) == Interval(-1.0, -1.0, -1.0, 3)
    assert paired({"a": 1.0}, {"b": 1.0}) is None


def test_pairs_are_told_apart_where_means_are_not():
    rng = np.random.default_rng(3)
    clips = rng.normal(0, 10, 50)
    one = {k: value + 1 for k, value in enumerate(clips)}
    two = {k: value + noise for k, (value, noise) in enumerate(zip(clips, rng.normal(0, 0.5, 50), strict=True))}
    apart, (_, low, high, _), (_, other_low, other_high, _) = paired(one, two), interval([*one.values()]), interval(
        [*two.values()]
    )  # fmt: skip
    assert apart.low > 0
    assert max(low, other_low) < min(high, other_high)
