"""Smoothing: removes jitter, keeps closures of one frame, adds no lag; weights match the bilateral filter."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.smoothing import LandmarkSmoother, SmoothingConfig
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, Landmarks, canonical_face, opening

LIPS = [*LIPS_INNER, *LIPS_OUTER]
LOWER = [*LIPS_INNER[1:10], *LIPS_OUTER[1:10]]


def smoothed(points: np.ndarray, **values: float) -> np.ndarray:
    smooth, found = LandmarkSmoother(SmoothingConfig(**values)), []
    for one in points:
        found += smooth.push(Landmarks(one.astype(np.float32)))
    return np.stack([one.points for one in found + smooth.finish()]).astype(float)


def shifted(gaps: list[float]) -> np.ndarray:
    """Faces with the lower lip lowered by `gaps` units."""
    face = np.stack([canonical_face()] * len(gaps))
    face[:, LOWER, 1] += np.array(gaps)[:, None]
    return face


def test_weights_are_those_of_the_filter():
    found = smoothed(shifted([0, 0, 0.5, 0, 0]), reach=1, width=1.0, lips=0.4)
    away = 0.5**2 * len(LOWER) / len(LIPS)
    beside = np.exp(-1 / 2) * np.exp(-away / (2 * 0.4**2))
    expected = 0.5 / (1 + 2 * beside)
    assert found[2, LOWER[3], 1] - canonical_face()[LOWER[3], 1] == pytest.approx(expected, abs=1e-3)


def test_without_reach_nothing_changes_or_waits():
    points = canonical_face() + np.random.default_rng(0).normal(0, 0.5, (6, 206, 3))
    smooth = LandmarkSmoother(SmoothingConfig(reach=0))
    for one in points:
        (found,) = smooth.push(Landmarks(one.astype(np.float32), 0.3))
        assert np.allclose(found.points, one, atol=1e-3)
        assert found.presence == 0.3


@pytest.mark.parametrize("values", [{"reach": -1}, {"lips": 0.0}])
def test_impossible_values_are_refused(values):
    with pytest.raises(UsageError):
        SmoothingConfig(**values)


def test_jitter_of_a_still_face_falls():
    pose = HeadPose(np.array(2.0), np.eye(3), np.array([200.0, 100.0, 0]))
    points = pose.repose(canonical_face()) + np.random.default_rng(1).normal(0, 0.3, (80, 206, 3))
    before, after = (np.diff(one[:, LIPS, :2], axis=0).std() for one in (points, smoothed(points)))
    assert after < 0.5 * before


def test_a_closure_of_one_frame_stays():
    gaps = [6.0] * 40
    gaps[20] = 0.0
    face = shifted(gaps)
    rest, open_ = opening(face[20]), opening(face[0])
    found = opening(smoothed(2 * face) / 2)
    assert found[20] < rest + 0.1 * (open_ - rest)
    assert np.allclose(np.delete(found, 20), open_, atol=0.1)


def test_a_turning_moving_head_is_not_left_behind():
    turns = Rotation.from_euler("z", np.linspace(0, 40, 50)[:, None], degrees=True).as_matrix()
    pose = HeadPose(np.full(50, 3.0), turns, np.linspace([300, 200, 0], [500, 260, 0], 50))
    points = pose.repose(canonical_face())
    away = np.linalg.norm((smoothed(points) - points)[..., :2], axis=-1).mean(1) / 3
    assert away[3:-3].max() < 0.05  # units
    assert away.max() < 1.5


def test_shots_are_smoothed_apart():
    one, other = shifted([0.0] * 4), shifted([0.3] * 4)
    smooth, found = LandmarkSmoother(), []
    for shot in (one, other):
        for points in shot:
            found += smooth.push(Landmarks(points.astype(np.float32)))
        found += smooth.finish()
    assert np.allclose(np.stack([points.points for points in found]), np.concatenate([one, other]), atol=1e-3)


def test_memory_is_constant():
    smooth = LandmarkSmoother()
    for _ in range(50):
        smooth.push(Landmarks(canonical_face().astype(np.float32)))
    assert len(smooth._seen) <= 2 * smooth.config.reach
