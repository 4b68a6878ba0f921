"""Verifies uncertain detections: our landmark network says whether there is a face in the box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from preprocessing.faces.face_track import Detection
from preprocessing.faces.landmarks.predictor import PartNetwork
from preprocessing.faces.landmarks.views import box_view, face_view
from preprocessing.faces.mesh import HeadPose

CERTAIN = 0.6  # score from which a detection is not looked at again
BESIDE = 0.3  # of a box's sides, from its middle to that of the face seen in it


class PresenceCheck:
    """Lowers the score of a detection by how surely the landmark network sees a face there.

    It looks twice: upright, as the box is, and as the head turns out to be turned. What is certain, or can no longer
    reach the least score, it does not look at.

    Args:
        load: loads the network of the whole face, when it is first needed.
    """

    def __init__(self, load: Callable[[], PartNetwork]) -> None:
        self._load = load
        self._network: PartNetwork | None = None

    def __call__(self, frame: np.ndarray, found: Detection, least: float) -> Detection | None:
        """The detection in a frame, uint8 BGR (H, W, 3), with its new score; None if that is below the least."""
        if found.score >= CERTAIN:
            return found
        network = self._network = self._network or self._load()
        points, first = network.points(frame, box_view(found.box))
        if found.score * (first + 1) / 2 < least or not _inside(points, found.box):
            return None
        second = network.points(frame, face_view(HeadPose.of(points)))[1]
        score = found.score * (first + second) / 2
        return replace(found, score=score) if score >= least else None


def _inside(points: np.ndarray, box: np.ndarray) -> bool:
    """Whether the middle of the mesh points (206, 3) lies in the middle of a box (4,): else it saw a face beside it."""
    offset = np.abs(points[:, :2].mean(0) - (box[:2] + box[2:]) / 2) / (box[2:] - box[:2])
    return bool(offset.max() < BESIDE)
