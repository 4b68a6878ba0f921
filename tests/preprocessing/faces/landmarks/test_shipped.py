"""The bundled network on an unseen real face: points, presence, and a video of a turning face."""

import cv2
import numpy as np
import pytest

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.predictor import MeshLandmarks, load_landmarks
from preprocessing.faces.landmarks.tracker import LandmarkTracker
from preprocessing.faces.mesh import LIPS_OUTER, MESH_INDICES, Landmarks
from tests.preprocessing.faces.landmarks.portrait import (
    BOX,
    EYES,
    PLACES,
    ROWS,
    PortraitDetector,
    moved,
    portrait,
    turned,
)
from training.checkpoint import Checkpoint

FAR = 0.08  # maximum mean error relative to the eye distance
SHUT = 0.3


@pytest.fixture(scope="module")
def network() -> MeshLandmarks:
    return load_landmarks()


def away(found: Landmarks, matrix: np.ndarray | None = None, scale: float = 1.0) -> float:
    """Mean distance from the known points relative to the eye distance."""
    truth = PLACES if matrix is None else moved(PLACES, matrix)
    return float(np.linalg.norm(found.points[ROWS, :2] - truth, axis=1).mean() / (EYES * scale))


def covered(found: Landmarks) -> np.ndarray:
    """The portrait with a skin-colored disc over the mouth."""
    image, lips = portrait(), found.points[LIPS_OUTER, :2]
    cv2.circle(image, tuple(int(x) for x in lips.mean(0)), 30, (120, 150, 200), -1)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def test_points_lie_where_they_are_known_to(network):
    assert away(network(portrait(), BOX)) < FAR


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_whatever_the_size_of_the_face(network, scale):
    image = cv2.resize(portrait(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    matrix = np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]])
    assert away(network(image, BOX * scale), matrix, scale) < 1.3 * FAR


def test_a_rough_box_and_the_last_points_lead_to_the_same_place(network):
    first = network(portrait(), BOX)
    again = network(portrait(), first)
    rough = network(portrait(), BOX + np.array([8, -6, 14, 4]))
    for other in (again, rough):
        assert np.abs(other.points - first.points)[:, :2].max() < 0.1 * EYES


def test_presence_falls_with_the_mouth_covered_and_without_a_face(network):
    found = network(portrait(), BOX)
    assert found.presence > 1 - SHUT
    assert network(covered(found), found).presence < SHUT
    empty = np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    for frame in (empty, np.full_like(empty, 90), np.roll(portrait(), 250, 0)):
        assert network(frame, found).presence < SHUT


def test_a_moving_turning_face_is_tracked(network):
    course = [turned(25 * np.sin(k / 8), 1 + 0.15 * np.sin(k / 11), (30 * np.sin(k / 9), 0.8 * k)) for k in range(60)]
    scales = [float(np.sqrt(np.linalg.det(matrix[:, :2]))) for _, matrix in course]
    detector = PortraitDetector([matrix for _, matrix in course])
    tracker = LandmarkTracker(network, detector)
    found = list(tracker(image for image, _ in course))
    errors = [away(one, matrix, scale) for one, (_, matrix), scale in zip(found, course, scales, strict=True)]
    assert max(errors) < 2 * FAR
    assert np.mean(errors) < 1.3 * FAR


def test_one_network_of_other_points_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    Checkpoint("landmarks", {"mesh": list(MESH_INDICES[1:])}, {}, {}, {}).save(path)
    with pytest.raises(UsageError, match="different set of points"):
        load_landmarks(path)
