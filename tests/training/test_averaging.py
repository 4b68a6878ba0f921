"""The learning rates of networks whose weights are averaged."""

from __future__ import annotations

import pytest

from training.averaging import warmed_cosine


def test_the_rate_rises_and_falls_by_hand():
    rates = [warmed_cosine(2.0, step, steps=100, warmup=4) for step in (0, 3, 50, 100, 150)]
    assert rates == pytest.approx([0.502, 2 * 0.997781 + 0.002, 1.002, 0.002, 0.002], abs=1e-5)
