"""Mesh geometry: poses come back exactly, a turned head is turned to the front, the rest shape is the closed one."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from preprocessing.faces import mesh


def planted(seed: int, yaw: float = 25.0) -> tuple[mesh.HeadPose, np.ndarray]:
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_euler("yxz", [yaw, *rng.uniform(-20, 20, 2)], degrees=True).as_matrix()
    pose = mesh.HeadPose(np.array(rng.uniform(0.3, 8)), rotation, rng.uniform(-500, 500, 3))
    return pose, pose.repose(mesh.canonical_face())


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_pose_is_found_and_undone(seed):
    pose, points = planted(seed)
    found = mesh.HeadPose.of(points)
    assert np.allclose(found.rotation, pose.rotation, atol=1e-9)
    assert np.allclose(found.scale, pose.scale)
    assert np.allclose(found.unpose(points), mesh.canonical_face(), atol=1e-8)


def test_poses_of_many_frames_at_once_are_those_of_each():
    points = np.stack([planted(seed)[1] for seed in range(5)])
    many = mesh.HeadPose.of(points)
    for i, one in enumerate(points):
        assert np.allclose(many.unpose(points)[i], mesh.HeadPose.of(one).unpose(one))
    assert np.allclose(many.repose(many.unpose(points)), points)


@pytest.mark.parametrize("yaw", [-50, 0, 35])
def test_yaw_is_the_planted_angle(yaw):
    rotation = Rotation.from_euler("y", yaw, degrees=True).as_matrix()
    pose = mesh.HeadPose(np.array(2.0), rotation, np.zeros(3))
    assert abs(abs(mesh.HeadPose.of(pose.repose(mesh.canonical_face())).yaw()) - abs(yaw)) < 1e-6


def test_a_moving_mouth_does_not_move_the_pose():
    face = mesh.canonical_face().copy()
    face[mesh.lower_face(), 1] += 5
    assert np.allclose(mesh.HeadPose.of(face).rotation, np.eye(3), atol=1e-9)


def test_the_units_are_those_of_the_eyes():
    face = mesh.canonical_face()
    eyes = face[mesh.LEFT_EYE].mean(0) - face[mesh.RIGHT_EYE].mean(0)
    assert np.linalg.norm(eyes[:2]) == pytest.approx(42, abs=0.01)
    assert not set(mesh.STABLE) & set(mesh.lower_face())
    assert set(mesh.LIPS_INNER) | set(mesh.LIPS_OUTER) <= set(mesh.lower_face())


def test_rest_is_the_median_of_the_least_open_frames():
    face = mesh.canonical_face()
    shapes = np.repeat(face[None], 50, 0)
    gap = face[mesh.LOWER_LIP, 1] - face[mesh.UPPER_LIP, 1]
    shapes[:, mesh.LOWER_LIP, 1] += np.linspace(5, 20, 50) - gap
    shapes[[7, 19, 30, 31, 44, 45], mesh.LOWER_LIP, 1] = face[mesh.UPPER_LIP, 1] + np.array([1, 2, 3, 4, 5, 6])
    assert mesh.rest_shape(shapes)[mesh.LOWER_LIP, 1] - face[mesh.UPPER_LIP, 1] == pytest.approx(3.5)
    with pytest.raises(ValueError, match="at least one frame"):
        mesh.rest_shape(shapes[:0])
