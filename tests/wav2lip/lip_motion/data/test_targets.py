"""Mesh points → displacements, on a head with known motion."""

import lzma

import numpy as np
import pytest

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import MESH_INDICES
from tests.wav2lip.lip_motion.material import closed_face, opened, turning_head
from wav2lip.lip_motion.data.targets import MeshTrack, at_times, displacements, near_cuts, read_mesh, smooth

FRAMES = 60
AMOUNT = np.maximum(0, 6 * np.sin(np.arange(FRAMES) / 4))


def track(points: np.ndarray, found: np.ndarray | None = None) -> MeshTrack:
    every = np.ones(len(points), bool) if found is None else found
    return MeshTrack(points * every[:, None, None], every, np.arange(len(points)) / 25)


def test_a_turning_head_gives_back_the_planted_displacement():
    motion = displacements(track(turning_head(AMOUNT)))
    assert motion.valid.all()
    np.testing.assert_allclose(motion.rest, closed_face(), atol=1e-4)
    expected = smooth(opened(AMOUNT), motion.valid)
    np.testing.assert_allclose(motion.values, expected, atol=1e-3)


def test_smoothing_by_hand_and_not_across_gaps():
    values = np.array([0.0, 8.0, 0.0, 100.0])
    np.testing.assert_allclose(smooth(values, np.array([True, True, True, False])), [1, 6, 1, 87.5])


def test_frames_beside_a_cut_and_without_a_face_are_masked():
    points = turning_head(AMOUNT)
    points[30:] += [200, 0, 0]
    found = np.ones(FRAMES, bool)
    found[10:12] = False
    motion = displacements(track(points, found))
    assert sorted(np.flatnonzero(~motion.valid)) == [9, 10, 11, 12, 29, 30]


def test_a_face_that_is_never_there_is_refused():
    with pytest.raises(UsageError, match="found in 0 frames"):
        displacements(track(turning_head(AMOUNT), np.zeros(FRAMES, bool)))


def test_interpolation_between_frames_and_what_is_known():
    times, values = np.array([0, 0.1, 0.2, 0.3]), np.array([0.0, 1.0, 2.0, 9.0])
    valid = np.array([True, True, True, False])
    found, known = at_times(values, valid, times, np.array([0.05, 0.2, 0.25, 0.5]))
    np.testing.assert_allclose(found[:3], [0.5, 2, 5.5])
    assert known.tolist() == [True, True, False, False]


def test_a_file_of_labels_comes_back(tmp_path):
    points = np.round(turning_head(AMOUNT) * 8) / 8
    steps = np.diff(points * 8, axis=0, prepend=0).astype("<i2").transpose(2, 1, 0).reshape(-1)
    packed = lzma.compress(steps.view(np.uint8).reshape(-1, 2).T.tobytes())
    path = tmp_path / "a.npz"
    found, times = np.ones(FRAMES, bool), np.arange(FRAMES) / 25
    np.savez(path, steps=np.frombuffer(packed, np.uint8), frames=FRAMES, found=found, times=times)
    read = read_mesh(path)
    np.testing.assert_array_equal(read.points, points)
    assert read.points.shape == (FRAMES, len(MESH_INDICES), 3)
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match="is not a mesh label file"):
        read_mesh(path)


def test_real_labels_open_where_a_sentence_is_spoken(shared):
    motion = displacements(read_mesh(shared / "mesh/val/grid_s2__pwij3p.npz"))
    assert motion.valid.mean() > 0.95
    assert 1 < np.abs(motion.values).max() < 25


def test_a_leap_is_a_cut_and_a_step_is_none():
    from preprocessing.faces.mesh import HeadPose

    where = np.array([[0, 0, 0], [1, 0, 0], [30, 0, 0], [31, 0, 0]], float)
    pose = HeadPose(np.ones(4), np.repeat(np.eye(3)[None], 4, 0), where)
    assert near_cuts(pose, np.arange(4)).tolist() == [False, True, True, False]
