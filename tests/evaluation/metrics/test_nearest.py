"""Nearest neighbors and the share of copies, where both are known."""

import numpy as np
import pytest

from evaluation.metrics.nearest import copied_share, nearest


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
