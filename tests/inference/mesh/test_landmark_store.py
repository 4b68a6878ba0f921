"""Landmarks by frame: fading, rest shape and saved tracks."""

from __future__ import annotations

import numpy as np
import pytest

from inference.mesh.landmark_store import FADE, LandmarkStore
from preprocessing.faces.mesh import LOWER_LIP, UPPER_LIP, HeadPose, Landmarks, canonical_face, opening, rest_shape

POSE = HeadPose(np.array(3.0), np.eye(3), np.array([100.0, 50.0, 0.0]))


def face(gap: float = 1.0, presence: float = 1.0, yaw: float = 0.0) -> Landmarks:
    shape = canonical_face().copy()
    shape[LOWER_LIP] = shape[UPPER_LIP] + [0, gap, 0]
    angle = np.radians(yaw)
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return Landmarks(HeadPose(POSE.scale, rotation, POSE.translation).repose(shape).astype(np.float32), presence)


@pytest.fixture
def store():
    store = LandmarkStore()
    yield store
    store.close()


def test_what_was_stored_comes_back(store):
    store.append(face(2.0, 0.9))
    store.append(None)
    found = store.landmarks(0)
    assert np.array_equal(found.points, face(2.0).points)
    assert found.presence == pytest.approx(0.9)
    assert store.landmarks(1) is None
    assert store.landmarks(2) is None


def test_the_mouth_fades_where_the_face_goes_and_comes(store):
    for number in range(20):
        store.append(None if number == 10 else face())
    amounts = [store.amount(number) for number in range(21)]
    assert amounts[:6] == [1] * 6
    assert amounts[6:15] == [4 / FADE, 3 / FADE, 2 / FADE, 1 / FADE, 0, 1 / FADE, 2 / FADE, 3 / FADE, 4 / FADE]
    assert amounts[15:] == [1] * 5 + [0]


@pytest.mark.parametrize("unusable", [face(presence=0.55), face(yaw=70), None])
def test_covered_and_turned_faces_pass_through(store, unusable):
    store.append(unusable)
    assert store.landmarks(0) is None
    assert store.amount(0) == 0
    assert not store.any_face()


def test_rest_is_the_median_of_the_least_open_frames_that_face_the_camera(store):
    for number in range(100):
        store.append(face(gap=1 + number % 10))
    store.append(face(gap=0.0, yaw=50))
    rest = rest_shape(store.shapes())
    assert opening(rest) == pytest.approx(1.0, abs=0.02)
    assert np.abs(rest - canonical_face())[: UPPER_LIP - 2].max() < 0.01


def test_a_turned_face_has_a_rest_as_well(store):
    store.append(face(gap=2.0, yaw=45))
    assert opening(rest_shape(store.shapes())) == pytest.approx(2.0, abs=0.02)


def test_a_track_has_boxes_around_the_faces(store):
    store.append(face())
    store.append(None)
    boxes, points, found = store.boxes_and_points()
    assert found.tolist() == [True, False]
    mesh = face().points
    assert boxes[0].tolist() == [*mesh[:, :2].min(0), *mesh[:, :2].max(0)]
    left_of_right = points[0, [0, 3], 0] < points[0, [1, 4], 0]
    assert left_of_right.all()
    assert points[0, :2, 1].max() < points[0, 2, 1] < points[0, 3:, 1].min()
