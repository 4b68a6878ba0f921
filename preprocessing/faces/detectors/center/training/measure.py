"""Recall and false faces of any detector on labeled pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from preprocessing.faces.detectors.center.detector import overlap
from preprocessing.faces.face_track import Detection

SAME = 0.5  # IoU of a detection that is the face


@dataclass
class DetectionCount:
    """Pictures, their faces, those found, false ones, and the sum of the overlaps of those found."""

    pictures: int = 0
    faces: int = 0
    found: int = 0
    wrong: int = 0
    overlaps: float = 0.0

    def add(
        self, detections: Iterable[Detection], boxes: np.ndarray, ignored: np.ndarray, size: tuple[int, int]
    ) -> None:  # fmt: skip
        """Counts a picture of a size (width, height): each face (K, 4) goes with the best detection that is left.

        A detection that mostly lies on an ignored box (M, 4) is neither right nor wrong.
        """
        limit = np.array([*size, *size], np.float64)
        truth = [np.clip(box, 0, limit) for box in boxes]
        self.pictures, self.faces = self.pictures + 1, self.faces + len(truth)
        for detection in sorted(detections, key=lambda one: -one.score):
            shares = [overlap(detection.box, box) for box in truth]
            if shares and max(shares) >= SAME:
                self.found, self.overlaps = self.found + 1, self.overlaps + max(shares)
                truth.pop(int(np.argmax(shares)))
            elif not any(_inside(detection.box, np.clip(box, 0, limit)) > 0.5 for box in ignored):
                self.wrong += 1

    def figures(self) -> dict[str, float]:
        """Recall, false faces per picture, and the mean overlap of those found."""
        return {
            "recall": self.found / max(self.faces, 1), "false": self.wrong / max(self.pictures, 1),
            "overlap": self.overlaps / max(self.found, 1),
        }  # fmt: skip


def _inside(box: np.ndarray, other: np.ndarray) -> float:
    """The share of a box that lies in the other."""
    sides = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
    return float(sides.prod() / np.prod(box[2:] - box[:2]))
