"""Mesh labels: packed labels round-trip, and the labeling script keeps our points."""

import numpy as np
import pytest

from preprocessing.errors import MediaError, UsageError
from preprocessing.faces.landmarks.training import label
from preprocessing.faces.landmarks.training.labels import labeled_videos, load_labels, person_of
from preprocessing.faces.mesh import MESH_INDICES


def test_the_script_keeps_our_points():
    assert tuple(label.mesh_indices()) == MESH_INDICES


def test_packed_points_come_back(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 300, (1, 206, 3)) + np.cumsum(rng.normal(0, 3, (20, 206, 3)), 0)
    found = np.arange(20) != 7
    points[~found] = 0
    np.savez(tmp_path / "a.npz", steps=label.pack(points), found=found, times=np.arange(20) / 25, frames=20)
    loaded = load_labels(tmp_path / "a.npz")
    expected = np.where(found[:, None, None], points - [0.5, 0.5, 0], 0)  # MediaPipe measures from the pixel edge
    assert np.abs(loaded.points - expected).max() <= 0.5 / label.STEPS + 1e-4
    assert (loaded.found == found).all()
    assert loaded.times[-1] == pytest.approx(0.76)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    for name in ("a", "b"):
        with pytest.raises(MediaError, match="is not a mesh label file"):
            load_labels(tmp_path / f"{name}.npz")


def test_videos_are_those_with_labels(tmp_path):
    for name in ("ann__1.mp4", "ben__1.mp4", "ann__1.npz", "cat.npz"):
        (tmp_path / name).touch()
    (found,) = labeled_videos(tmp_path, tmp_path)
    assert (found.name, found.speaker, found.split) == ("ann__1", "ann", "")
    with pytest.raises(UsageError, match="make them with"):
        labeled_videos(tmp_path, tmp_path / "none")
    assert (person_of("ann__1__b"), person_of("cat")) == ("ann", "cat")


def test_a_table_that_lacks_a_column_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("video,labels\n")
    with pytest.raises(UsageError, match="lacks the column name and speaker and split"):
        labeled_videos(tmp_path, tmp_path)


def test_the_labels_beside_the_repository_load(shared):
    found = load_labels(next(iter(sorted((shared / "mesh" / "val").glob("grid_s2*.npz")))))
    assert found.points.shape[1:] == (206, 3)
    assert found.found.mean() > 0.9
