"""The Fréchet distance: closed forms, two independent implementations, and its interval over clips."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from evaluation.metrics.frechet import Moments, frechet_distance, frechet_interval, moments_distance


def features(seed, count=60, dimension=5, shift=0.0):
    """Correlated features of one clip."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((dimension, dimension))
    return (rng.standard_normal((count, dimension)) @ mix + shift).astype(np.float32)


def clips(first, count=6, shift=0.0):
    return [features(first + k, shift=shift) for k in range(count)]


def test_in_one_dimension_it_is_the_means_gap_and_the_deviations_gap():
    assert frechet_distance([1.0], [[4.0]], [4.0], [[9.0]]) == pytest.approx((4 - 1) ** 2 + (3 - 2) ** 2)


def test_commuting_covariances_give_the_gaps_of_their_deviations():
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    one, two = (turn @ np.diag(np.square(each)) @ turn.T for each in ([1.0, 2, 3], [2.0, 2, 5]))
    assert frechet_distance(np.zeros(3), one, np.array([0, 1, 2]), two) == pytest.approx(5 + 1 + 0 + 4)


def test_equal_distributions_have_none_and_it_is_symmetric():
    one, two = Moments.from_features(features(1)), Moments.from_features(features(2, shift=0.5))
    assert moments_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert moments_distance(one, two) == pytest.approx(moments_distance(two, one), rel=1e-9)


def test_the_root_of_a_matrix_gives_the_same():
    one, two = (
        Moments.from_features(features(1, dimension=12)),
        Moments.from_features(features(2, dimension=12, shift=0.3)),
    )
    root = sqrtm(one.covariance @ two.covariance).real
    oracle = np.square(one.mean - two.mean).sum() + np.trace(one.covariance + two.covariance - 2 * root)
    assert moments_distance(one, two) == pytest.approx(oracle, rel=1e-6)


def test_torchmetrics_gives_the_same():
    fid = pytest.importorskip("torchmetrics.image.fid")
    import torch

    one, two = Moments.from_features(features(1)), Moments.from_features(features(2, shift=0.4))
    values = [torch.from_numpy(value) for side in (one, two) for value in (side.mean, side.covariance)]
    assert moments_distance(one, two) == pytest.approx(float(fid._compute_fid(*values)), rel=1e-6)


def test_singular_covariances_do_no_harm():
    flat = np.diag([1.0, 0, 0])
    assert frechet_distance(np.zeros(3), flat, np.zeros(3), np.diag([0, 4.0, 0])) == pytest.approx(5)


def test_moments_of_clips_add_up_to_those_of_all():
    parts = clips(3, 4)
    together, sums = Moments.from_features(np.concatenate(parts)), Moments.from_features(parts[0])
    for each in parts[1:]:
        sums = sums + Moments.from_features(each)
    everything = np.concatenate(parts).astype(np.float64)
    for found in (together, sums):
        np.testing.assert_allclose(found.mean, everything.mean(0), atol=1e-9)
        np.testing.assert_allclose(found.covariance, np.cov(everything.T), atol=1e-9)


def test_counting_a_picture_twice_is_having_it_twice():
    values = features(4, 20)
    times = np.arange(20) % 3
    counted, repeated = Moments.from_features(values, times), Moments.from_features(np.repeat(values, times, axis=0))
    np.testing.assert_allclose(counted.covariance, repeated.covariance, atol=1e-9)
    np.testing.assert_allclose((Moments.from_features(values) * 2).mean, Moments.from_features(values).mean)


def test_the_interval_holds_the_distance_of_all_and_is_the_same_each_time():
    made, real = clips(10, shift=1.0), clips(20)
    found = frechet_interval(made, real, seed=3)
    assert found == frechet_interval(made, real, seed=3)
    value, low, high = found
    expected = moments_distance(
        Moments.from_features(np.concatenate(made)), Moments.from_features(np.concatenate(real))
    )
    assert value == pytest.approx(expected, rel=1e-9)
    assert low < value < high
    assert frechet_interval(real, real)[0] == pytest.approx(0, abs=1e-6)


def test_clips_that_differ_widen_the_interval():
    real, alike = clips(20), clips(20, shift=1.0)
    unlike = [each + k for k, each in enumerate(clips(20))]
    widths = [high - low for _, low, high in (frechet_interval(made, real) for made in (alike, unlike))]
    assert widths[1] > 2 * widths[0]


def test_many_dimensions_are_summed_up_another_way_to_the_same(monkeypatch):
    made, real = clips(10, shift=1.0), clips(20)
    usual = frechet_interval(made, real, draws=20)
    monkeypatch.setattr("evaluation.metrics.frechet.MAX_CACHED_DIM", 2)
    assert frechet_interval(made, real) == pytest.approx(usual, rel=1e-6)


def test_too_few_pictures_give_no_figure():
    few = [features(1, 5), features(2, 4)]
    assert frechet_interval(few, few) is None
    assert frechet_interval([features(1, 6), features(2, 4)], clips(3, 2)) is not None
    assert frechet_interval([], []) is None


def test_lists_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"must match in number.*3 against 2"):
        frechet_interval(clips(1, 3), clips(1, 2))
    with pytest.raises(ValueError, match="feature dimension"):
        frechet_interval(clips(1, 1), [features(1, dimension=4)])
