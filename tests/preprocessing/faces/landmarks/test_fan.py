"""FAN's 68 points as mesh points: the fit, the heatmaps' decoding, and what is said without weights or package."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.fan import FILE, SIDE, FanLandmarks, decode_heatmaps, fan_view, load_fan
from preprocessing.faces.landmarks.sparse_mesh import MESH_OF, fit_mesh, mouth_side, weak_perspective
from preprocessing.faces.landmarks.training.labels import load_labels
from preprocessing.faces.mesh import (
    LIPS_INNER,
    LIPS_OUTER,
    LOWER_LIP,
    POINT,
    UPPER_LIP,
    HeadPose,
    canonical_face,
    lower_face,
    mouth_width,
    opening,
)
from tests.preprocessing.faces.landmarks.portrait import BOX, EYES, PLACES, ROWS, TRUTH, portrait

LIPS = [*LIPS_OUTER, *LIPS_INNER]


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """A rotation matrix from angles in degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def landmarks_of(mesh: np.ndarray) -> np.ndarray:
    """The 68 landmarks (68, 2) of mesh points; those without a mesh point are 0."""
    points = np.zeros((68, 2))
    points[list(MESH_OF)] = mesh[[POINT[index] for index in MESH_OF.values()], :2]
    return points


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, -10, 15), (-40, 8, -30)])
def test_the_mean_face_in_any_pose_comes_back(angles):
    pose = HeadPose(np.array(1.7), turned(*angles), np.array([140.0, 90.0, 0.0]))
    mesh = pose.repose(canonical_face())
    fitted = fit_mesh(landmarks_of(mesh))
    assert np.abs(fitted[:, :2] - mesh[:, :2]).max() < 1e-6
    assert np.abs(HeadPose.of(fitted).rotation - pose.rotation).max() < 1e-6
    depth = fitted[:, 2] - mesh[:, 2]
    assert np.ptp(depth) < 1e-6  # up to the depth of the head, which no projection shows


def test_an_opened_mouth_is_found_and_does_not_drag_the_other_lip():
    mesh = 2 * canonical_face()
    jaw = np.clip(mouth_side(), 0, 1)  # the lower lip's part
    opened = mesh + 12 * jaw[:, None] * [0, 1, 0]
    fitted = fit_mesh(landmarks_of(opened))
    assert fitted[LOWER_LIP, 1] - mesh[LOWER_LIP, 1] == pytest.approx(12 * jaw[LOWER_LIP], abs=0.1)
    assert fitted[UPPER_LIP, 1] == pytest.approx(mesh[UPPER_LIP, 1], abs=0.1)
    assert np.abs(fitted[LIPS, :2] - opened[LIPS, :2]).max() < 1.0  # points between the landmarks: half a unit


def test_a_weak_perspective_pose_by_hand():
    model = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    pose = weak_perspective(3 * model[:, :2] + [5, 7], model)
    assert float(pose.scale) == pytest.approx(3)
    assert np.allclose(pose.rotation, np.eye(3))
    assert np.allclose(pose.repose(model)[:, :2], 3 * model[:, :2] + [5, 7])
    with pytest.raises(UsageError, match="lie on a line"):
        weak_perspective(np.tile([[4.0, 4.0]], (4, 1)), model)
    with pytest.raises(UsageError, match="68 landmarks"):
        fit_mesh(np.zeros((5, 2)))


def test_the_fit_of_real_faces_is_close_where_speech_shows(shared):
    """From exact landmarks of 7 videos' mesh labels; what FAN itself adds is not in this."""
    errors, gaps, widths = [], [], []
    for path in sorted((shared / "mesh" / "val").glob("*.npz"))[::6]:
        labels = load_labels(path)
        meshes = labels.points[np.flatnonzero(labels.found)[::20]].astype(np.float64)
        fitted = np.stack([fit_mesh(landmarks_of(mesh)) for mesh in meshes])
        away = np.linalg.norm(fitted[..., :2] - meshes[..., :2], axis=-1) / (42 * HeadPose.of(meshes).scale[:, None])
        errors.append([100 * away[:, LIPS].mean(), 100 * away[:, lower_face()].mean()])
        shapes = [HeadPose.of(points).unpose(points) for points in (meshes, fitted)]
        gaps.append(np.abs(opening(shapes[0]) - opening(shapes[1])).mean())
        widths.append(np.corrcoef(*map(mouth_width, shapes))[0, 1])
    lips, lower = np.mean(errors, 0)
    assert lips < 0.5  # percent of the eyes' distance
    assert lower < 1.0
    assert np.mean(gaps) < 0.5  # units; a mouth opens by up to 15
    assert np.median(widths) > 0.98


def test_heatmaps_by_hand():
    heatmaps = np.zeros((68, 64, 64), np.float32)
    heatmaps[:, 10, 20] = 0.8
    heatmaps[0, 10, 21], heatmaps[0, 9, 20] = 0.4, 0.3
    heatmaps[1, 0, 63] = 0.9  # a corner
    points, peaks = decode_heatmaps(heatmaps)
    assert points[0].tolist() == [4 * 20.75 - 0.5, 4 * 10.25 - 0.5]
    assert points[2].tolist() == [4 * 20.5 - 0.5, 4 * 10.5 - 0.5]
    assert points[1].tolist() == [4 * 63.5 - 0.5, 4 * 0.5 - 0.5]  # at the border there is no neighbor to lean to
    assert peaks[:2].tolist() == pytest.approx([0.8, 0.9])


def test_the_crop_is_face_alignments():
    """The corners of its crop by its own transform, for a box as S3FD gives it."""
    utils = pytest.importorskip("face_alignment.utils")
    box = np.array([100.0, 60.0, 220.0, 210.0])
    center = np.array([160.0, 135.0 - 0.12 * 150])
    corners = [utils.transform(place, center, (120 + 150) / 195, 256.0, True).numpy() for place in ((0, 0), (256, 256))]
    view = fan_view(box)
    ours = [view.center - view.side / 2, view.center + view.side / 2]
    assert np.abs(np.array(corners) - ours).max() <= 1  # it rounds to whole pixels


class PortraitFan(nn.Module):
    """Heatmaps of the portrait's known mesh points, projected into the crop it is given, as FAN would draw them."""

    def __init__(self, level: float = 0.9) -> None:
        super().__init__()
        self.level, self.view = level, fan_view(BOX)
        mesh = HeadPose(np.array(1.0), np.eye(3), np.array([155.0, 55.0, 0.0])).repose(canonical_face())
        mesh[ROWS, :2] = PLACES
        self.landmarks = landmarks_of(mesh)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> list[Tensor]:
        self.seen.append(image)
        cells = (self.view.to_crop(self.landmarks, SIDE) + 0.5) / 4 - 0.5
        y, x = np.mgrid[:64, :64]
        away = (x - cells[:, 0, None, None]) ** 2 + (y - cells[:, 1, None, None]) ** 2
        return [torch.zeros(1, 68, 64, 64), torch.from_numpy(self.level * np.exp(-away / 2))[None]]


def test_the_network_sees_rgb_and_its_points_become_the_mesh():
    fake = PortraitFan()
    found = FanLandmarks(fake)(portrait(), BOX)
    known = np.isin(list(TRUTH), list(MESH_OF.values()))
    away = np.linalg.norm(found.points[ROWS, :2] - PLACES, axis=-1)[known]
    assert found.points.shape == (206, 3)
    assert found.points.dtype == np.float32
    assert away.max() < 0.03 * EYES  # a heatmap's cell is 2.7 pixels here
    assert found.presence == 1
    (image,) = fake.seen
    assert image.shape == (1, 3, SIDE, SIDE)
    assert 0 <= image.min() < image.max() <= 1
    assert image[0, 0].mean() > image[0, 2].mean()  # skin: red first


def test_flat_heatmaps_are_no_face():
    assert FanLandmarks(PortraitFan(level=0.1))(portrait(), BOX).presence < 0.4
    fake = PortraitFan()
    fake.landmarks[:] = 200.0  # all in one place
    found = FanLandmarks(fake)(portrait(), BOX)
    assert found.presence == 0
    assert np.isfinite(found.points).all()


def test_missing_weights_are_one_line_that_says_where_to_get_them(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=rf"need {FILE}: download it from https://.* pass it with --fan") as caught:
        load_fan()
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"no FAN weights at .*none"):
        load_fan(tmp_path / "none")
    (tmp_path / "other.pth").write_bytes(b"nothing")
    torch.save({"x": torch.zeros(1)}, tmp_path / "wrong.pth")
    for name in ("other.pth", "wrong.pth"):
        with pytest.raises(UsageError, match="is not FAN's checkpoint"):
            load_fan(tmp_path / name)


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment.models", None)
    (tmp_path / FILE).touch()
    with pytest.raises(UsageError, match="pip install face-alignment"):
        load_fan(tmp_path / FILE)
