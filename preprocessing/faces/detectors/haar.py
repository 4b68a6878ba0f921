"""OpenCV's Haar cascade (Viola and Jones): bundled with OpenCV; detects upright frontal faces only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from preprocessing.faces.face_track import Detection, clip_detections

CASCADE = "haarcascade_frontalface_alt2.xml"
# YuNet's tight box as fractions of the cascade's square: left, top, right, bottom. Medians over 198 real frames of 38
# speakers, made symmetric (benchmarks/face_points.py). The square alone ends above the chin.
TIGHT = np.array([0.086, -0.046, 0.914, 1.082])
LAST_THRESHOLD = 53.7556  # of the cascade's last stage, from its file
SMALLEST = 20  # pixels, the cascade's window


class Haar:
    """`FaceDetector` without points."""

    def __init__(self) -> None:
        self._cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).with_name("data") / CASCADE))

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Faces of uint8 BGR frames (H, W, 3), best first."""
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame: np.ndarray) -> list[Detection]:
        if min(frame.shape[:2]) < SMALLEST:
            return []
        gray = cv2.equalizeHist(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
        boxes, _, weights = self._cascade.detectMultiScale3(
            gray, scaleFactor=1.1, minNeighbors=8, minSize=(SMALLEST, SMALLEST), outputRejectLevels=True
        )
        found = [_detection(np.asarray(box), float(weight)) for box, weight in zip(boxes, weights, strict=True)]
        return clip_detections(found, frame)


def _detection(square: np.ndarray, weight: float) -> Detection:
    """Converts a square x, y, side, side and the last stage's sum; only its excess over the threshold matters."""
    box = np.tile(square[:2], 2) + TIGHT * np.tile(square[2:], 2)
    return Detection(box.astype(np.float32), 1 - math.exp(-max(weight - LAST_THRESHOLD, 0.0)))
