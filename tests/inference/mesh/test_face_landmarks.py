"""Landmark tracking in the boxes of face tracks and constant boxes."""

from __future__ import annotations

import numpy as np

from inference.mesh.face_landmarks import BoxDetector, track_people
from preprocessing.faces.face_track import TrackedFace
from preprocessing.faces.landmarks.smoothing import SmoothingConfig
from preprocessing.faces.mesh import Landmarks, canonical_face


class RecordingNetwork:
    """A network that returns the canonical face and records its search regions."""

    def __init__(self) -> None:
        self.near: list[object] = []

    def __call__(self, frame: np.ndarray, near: np.ndarray | Landmarks) -> Landmarks:
        self.near.append(near)
        return Landmarks(canonical_face().astype(np.float32) + frame[0, 0, 0], 1.0)


def tracked(found: list[bool], shots: list[int]) -> list[TrackedFace]:
    face = canonical_face()[:, :2]
    box, points = np.concatenate([face.min(0), face.max(0) + 8]).astype(np.float32), np.zeros((5, 2), np.float32)
    return [TrackedFace(i, box, points, seen, shot) for i, (seen, shot) in enumerate(zip(found, shots, strict=True))]


def in_boxes(frames, faces, network, smoothing) -> list[tuple[np.ndarray, Landmarks | None]]:
    return [found for _, *found in track_people(frames, [iter(faces)], network, smoothing)]


def test_landmarks_that_leave_the_box_for_another_face_start_again_in_it():
    class Straying(RecordingNetwork):
        def __call__(self, frame, near):
            found = super().__call__(frame, near)
            return found if isinstance(near, np.ndarray) else Landmarks(found.points + 500, 1.0)

    network = Straying()
    frames, faces = [np.zeros((4, 4, 3), np.uint8)] * 3, tracked([True] * 3, [0] * 3)
    done = in_boxes(frames, faces, network, SmoothingConfig(reach=0))
    assert all(np.abs(found.points - canonical_face()).max() < 1e-4 for _, found in done)
    assert [isinstance(near, np.ndarray) for near in network.near] == [True, False, True, False, True]


def test_two_people_in_one_walk_over_the_frames():
    frames = iter([np.full((4, 4, 3), value, np.uint8) for value in range(6)])
    tracks = [iter(tracked([True] * 6, [0] * 6)), iter(tracked([False] * 2 + [True] * 4, [0] * 6))]
    done = list(track_people(frames, tracks, RecordingNetwork(), SmoothingConfig()))
    for index, found in ((0, [True] * 6), (1, [False] * 2 + [True] * 4)):
        own = [(int(frame[0, 0, 0]), points is not None) for person, frame, points in done if person == index]
        assert own == list(enumerate(found))


def test_each_frame_comes_with_its_points():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in range(7)]
    faces = tracked([True, True, False, True, True, True, True], [0, 0, 0, 0, 0, 1, 1])
    network = RecordingNetwork()
    done = in_boxes(frames, faces, network, SmoothingConfig(reach=0))
    assert [int(frame[0, 0, 0]) for frame, _ in done] == list(range(7))
    assert [found is not None for _, found in done] == [True, True, False, True, True, True, True]
    for frame, found in done:
        if found is not None:
            assert np.allclose(found.points - canonical_face(), frame[0, 0, 0], atol=1e-4)
    from_box = [isinstance(near, np.ndarray) for near in network.near]
    assert from_box == [True, False, True, False, True, False]


def test_smoothing_delays_but_loses_no_frame():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in range(9)]
    done = in_boxes(frames, tracked([True] * 9, [0] * 4 + [1] * 5), RecordingNetwork(), SmoothingConfig())
    assert [int(frame[0, 0, 0]) for frame, _ in done] == list(range(9))
    assert all(found is not None for _, found in done)


def test_a_box_is_the_same_place_in_a_reduced_frame():
    detector = BoxDetector((10, 50, 20, 80), (200, 100))
    ((found,),) = detector([np.zeros((50, 100, 3), np.uint8)])
    assert found.box.tolist() == [10, 5, 40, 25]
