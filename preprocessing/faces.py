"""What a face in a picture is, what a face through a video is, and how a detector is asked for faces."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

TRACK_SCHEMA = "face-track-1"


@dataclass(frozen=True)
class Detection:
    """One face in one picture, in its pixels.

    box: float32 (4,), x1 y1 x2 y2; score: 0..1; points: float32 (5, 2) or None, in the order right eye, left eye,
    nose, right and left mouth corner, where right is the person's (the right eye is on the picture's left).
    """

    box: np.ndarray
    score: float
    points: np.ndarray | None = None


class FaceDetector(Protocol):
    """Frames, uint8 BGR (H, W, 3) each, to the faces in each, the best score first."""

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]: ...


def clip_detections(detections: Sequence[Detection], frame: np.ndarray) -> list[Detection]:
    """The detections with their boxes cut to the frame, those with nothing left dropped, the best score first."""
    height, width = frame.shape[:2]
    kept = []
    for found in detections:
        box = np.clip(found.box, 0, [width, height, width, height]).astype(np.float32)
        if np.isfinite(found.box).all() and box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            kept.append(Detection(box, float(min(max(found.score, 0.0), 1.0)), found.points))
    return sorted(kept, key=lambda found: -found.score)


def reduce_frame(frame: np.ndarray, side: int) -> np.ndarray:
    """The frame with its longer side brought down to `side` pixels; never enlarged."""
    height, width = frame.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return frame
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


# Points as fractions of a box's width and height, from the top left corner. Medians over real clips, against YuNet's
# own points (benchmarks/face_points.py repeats it).
POINT_FRACTIONS = {
    "tight": ((0.31, 0.42), (0.69, 0.42), (0.5, 0.6), (0.34, 0.77), (0.66, 0.77)),
    "haar": ((0.31, 0.40), (0.69, 0.40), (0.5, 0.58), (0.35, 0.77), (0.65, 0.77)),
}


def estimate_points(box: np.ndarray, kind: str = "tight") -> np.ndarray:
    """Where eyes, nose and mouth corners usually lie in a box (4,) of a detector without points: float32 (5, 2)."""
    if kind not in POINT_FRACTIONS:
        raise ValueError(f"no face proportions for boxes of kind {kind!r}; known: {', '.join(POINT_FRACTIONS)}")
    corner, size = np.asarray(box[:2]), np.asarray(box[2:]) - np.asarray(box[:2])
    return (corner + np.asarray(POINT_FRACTIONS[kind]) * size).astype(np.float32)


@dataclass
class FaceTrack:
    """One face through a video of N frames, in the pixels of its frames.

    boxes: float32 (N, 4); points: float32 (N, 5, 2); both NaN where `found`, bool (N,), is False; shot: int32 (N,),
    the number of the shot each frame belongs to. size: (width, height) of the frames, and fps (text), where known.
    """

    boxes: np.ndarray
    points: np.ndarray
    found: np.ndarray
    shot: np.ndarray
    size: tuple[int, int] | None = None
    fps: str | None = None

    def __len__(self) -> int:
        return len(self.found)
