"""Networks: shapes, sizes, and the mirror map."""

import numpy as np
import pytest
import torch

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.model import LandmarkNet, mirror_rows
from preprocessing.faces.landmarks.network_config import NetworkConfig, mouth_rows, to_normalized, to_pixels
from preprocessing.faces.landmarks.training.losses import LandmarkLoss, measure_points
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, POINT, canonical_face


@pytest.mark.parametrize(("part", "count"), [("face", 206), ("mouth", len(mouth_rows()))])
def test_points_and_logits(part, count):
    network = LandmarkNet(NetworkConfig(part, 64, (4, 8, 8, 8), (1, 1, 1), 4, 16)).eval()
    points, logits = network(torch.rand(2, 3, 64, 64))
    assert (points.shape, logits.shape) == ((2, count, 3), (2,))


def test_a_new_network_says_the_mean_face():
    network = LandmarkNet(NetworkConfig("face", 64, (4, 8, 8, 8), (1, 1, 1), 4, 16)).eval()
    mean = torch.rand(206, 3)
    network.init_output(mean)
    assert (network(torch.rand(1, 3, 64, 64))[0][0] - mean).abs().max() < 0.2


@pytest.mark.parametrize(
    "values", [{"part": "nose"}, {"size": 100}, {"depths": (1, 1)}], ids=["part", "size", "depths"]
)
def test_contradictions_are_refused(values):
    with pytest.raises(UsageError):
        NetworkConfig(**values)


def test_the_mirror_swaps_the_sides():
    rows = mirror_rows()
    assert (rows[rows] == np.arange(206)).all()
    for right, left in ((33, 263), (133, 362), (61, 291), (78, 308), (13, 13), (14, 14), (172, 397)):
        assert rows[POINT[right]] == POINT[left]


def test_shares_are_of_the_crop():
    assert np.allclose(to_normalized(np.array([-0.5, 111.5, 56.0]), 112), [-1, 1, 1])
    assert np.allclose(to_pixels(to_normalized(np.array([3.0, 5.0, 7.0]), 96), 96), [3, 5, 7])


def test_losses_of_a_known_error():
    network = NetworkConfig("face", 64, (4, 8, 8, 8), (1, 1, 1), 4, 16)
    truth = torch.zeros(1, 206, 3)
    points = truth.clone()
    points[..., 0] = 2 / 81  # all points are two units to the right
    one = torch.ones(1)
    losses = LandmarkLoss(network)(points, torch.zeros(1), truth, one, one)
    expected = {"points": 2 / 3, "lips": 2 / 3, "gap": 0.0, "presence": np.log(2)}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, abs=1e-6)


def test_an_example_without_a_face_has_no_points_to_learn():
    network = NetworkConfig("mouth", 64, (4, 8, 8, 8), (1, 1, 1), 4, 16)
    truth = torch.zeros(1, len(mouth_rows()), 3)
    losses = LandmarkLoss(network)(truth + 5, torch.zeros(1), truth, torch.tensor([-1.0]), torch.zeros(1))
    assert sum(losses.values()) == 0


def test_figures_of_a_shift_and_of_a_mouth_that_opens():
    truth = np.stack([canonical_face()] * 5)
    lips = np.zeros(206, bool)
    lips[[*LIPS_OUTER, *LIPS_INNER]] = True
    truth[:, POINT[14], 1] += [0, 1, 2, 3, 4]
    points = truth + np.where(lips, 4.2, 0)[None, :, None] * [1, 0, 0]
    points[:, POINT[14], 1] += [0, 1, 2, 3, 4]
    figures = measure_points(points, truth)
    assert figures["opening"] == pytest.approx(1)
    assert figures["shift"] == pytest.approx(10, abs=0.3)
    assert figures["lips"] >= figures["shift"] > figures["all"]
