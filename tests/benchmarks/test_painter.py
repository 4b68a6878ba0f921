"""The benchmarks of the mouth painter: flicker of known images, and rows of several painters."""

import re

import numpy as np
import pytest

from benchmarks.painter import SEED, Table, mean_and_deviation
from benchmarks.painter_flicker import flicker, open_runs
from tests.wav2lip.renderer.faces import opened, shut_face
from wav2lip.renderer.training.crops import crop_pose


def test_flicker_is_the_second_difference_where_the_mouth_stays_open():
    """Brightness that rises evenly does not flicker; +a, -a, +a is a jump of 4 a; what is not inside does not count."""
    time = np.arange(6.0)[:, None, None, None]
    picture = np.random.default_rng(0).uniform(50, 100, (20, 30, 3))
    inner = np.zeros((6, 20, 30))
    inner[:, 5:15, 5:25] = 1
    outside = np.where(inner[..., None] > 0, 0, 40) * (-1) ** time
    assert flicker(picture + 3 * time + outside, inner) == pytest.approx(0, abs=1e-9)
    assert flicker(picture + 2.5 * (-1) ** time + outside, inner) == pytest.approx(10)
    inner[::2] = 0
    assert np.isnan(flicker(picture + 0 * time, inner)), "never open in three successive frames"


def test_painters_of_one_name_share_a_row(capsys: pytest.CaptureFixture):
    assert mean_and_deviation([2.0], 1) == "2.0"
    assert mean_and_deviation([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00"
    table = Table.__new__(Table)
    table.figures = {
        ("photo", f"hinge seed {seed}"): {0: [(30.0 + seed, 9.0, 1.0)], 1: [(40.0, 11.0, 1.0)]} for seed in (0, 1, 2)
    }
    table.print()
    assert "| photo | hinge | 35.5 ± 0.5 | 10.00 ± 0.00 | 1.00 ± 0.00 |" in capsys.readouterr().out
    assert re.sub(SEED, "", "person code seed 12, 8 mouths") == "person code, 8 mouths"


def test_runs_are_open_apart_and_usable():
    """Frames 20 to 39 are open, 30 is unusable."""
    gaps = np.where((np.arange(60) >= 20) & (np.arange(60) < 40), 6.0, 0.3)
    points = np.stack([crop_pose().repose(shut_face() + opened(gap)) for gap in gaps])
    usable = np.delete(np.arange(60), 30)
    runs = open_runs(points, usable, 4, 9, np.random.default_rng(0))
    assert runs.shape[1] == 4
    assert 3 <= len(runs) <= 5
    assert (np.diff(runs, axis=1) == 1).all()
    assert len(np.unique(runs)) == runs.size, "they do not overlap"
    assert 30 not in runs
    assert runs.min() >= 18, "open on average"
    assert open_runs(points[:3], usable[:3], 4, 9, np.random.default_rng(0)).shape == (0, 4)
