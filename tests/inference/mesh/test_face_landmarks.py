"""Landmark tracking in the boxes of face tracks and constant boxes."""

from __future__ import annotations

import numpy as np

from inference.mesh.face_landmarks import BoxDetector, track_in_boxes
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
    box, points = np.array([1, 2, 3, 4], np.float32), np.zeros((5, 2), np.float32)
    return [TrackedFace(i, box, points, seen, shot) for i, (seen, shot) in enumerate(zip(found, shots, strict=True))]


def test_each_frame_comes_with_its_points():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in range(7)]
    faces = tracked([True, True, False, True, True, True, True], [0, 0, 0, 0, 0, 1, 1])
    network = RecordingNetwork()
    done = list(track_in_boxes(frames, faces, network, SmoothingConfig(reach=0)))
    assert [int(frame[0, 0, 0]) for frame, _ in done] == list(range(7))
    assert [found is not None for _, found in done] == [True, True, False, True, True, True, True]
    for frame, found in done:
        if found is not None:
            assert np.allclose(found.points - canonical_face(), frame[0, 0, 0], atol=1e-4)
    from_box = [isinstance(near, np.ndarray) for near in network.near]
    assert from_box == [True, False, True, False, True, False]


def test_smoothing_delays_but_loses_no_frame():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in range(9)]
    done = list(track_in_boxes(frames, tracked([True] * 9, [0] * 4 + [1] * 5), RecordingNetwork(), SmoothingConfig()))
    assert [int(frame[0, 0, 0]) for frame, _ in done] == list(range(9))
    assert all(found is not None for _, found in done)


def test_a_box_is_the_same_place_in_a_reduced_frame():
    detector = BoxDetector((10, 50, 20, 80), (200, 100))
    ((found,),) = detector([np.zeros((50, 100, 3), np.uint8)])
    assert found.box.tolist() == [10, 5, 40, 25]
