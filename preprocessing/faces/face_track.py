"""Face detections, face tracks through a video, and the detector interface."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from preprocessing.errors import UsageError
from preprocessing.media.planar_frame import PlanarFrame
from preprocessing.unfinished import UnfinishedFolder, final_path

SCHEMA = "face-track-1"


@dataclass(frozen=True)
class Detection:
    """One face in one image, in pixel coordinates.

    box: float32 (4,), x1 y1 x2 y2, tight from forehead to chin and from cheek to cheek; score: 0..1; points: float32
    (5, 2) or None, in the order right eye, left eye, nose, right and left mouth corner, where right is the subject's
    (the right eye is on the image's left).
    """

    box: np.ndarray
    score: float
    points: np.ndarray | None = None


class FaceDetector(Protocol):
    """Detects the faces in each frame, uint8 BGR (H, W, 3), best score first."""

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]: ...


def clip_detections(detections: Sequence[Detection], frame: np.ndarray) -> list[Detection]:
    """Clips boxes to the frame, drops those left empty, and sorts by score, best first."""
    height, width = frame.shape[:2]
    kept = []
    for found in detections:
        box = np.clip(found.box, 0, [width, height, width, height]).astype(np.float32)
        if np.isfinite(found.box).all() and box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            kept.append(Detection(box, float(min(max(found.score, 0.0), 1.0)), found.points))
    return sorted(kept, key=lambda found: -found.score)


def reduce_frame(frame: np.ndarray, side: int) -> np.ndarray:
    """Reduces the frame, an array or planar, so that its longer side is at most `side` pixels: an array."""
    height, width = frame.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return np.asarray(frame)
    if isinstance(frame, PlanarFrame):
        return frame.reduced(np.s_[:], np.s_[:], max(1, round(width * factor)), max(1, round(height * factor)))
    # Repeated halving, then the rest: four times as fast as averaging in one step, with no more aliasing.
    while min(frame.shape[:2]) >= 2 and max(frame.shape[:2]) >= 2 * side:
        frame = cv2.resize(frame, (frame.shape[1] // 2, frame.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(frame, (max(1, round(width * factor)), max(1, round(height * factor))))


# Right eye, left eye, nose, right and left mouth corner as fractions of a tight box's width and height, from its top
# left corner. Medians of YuNet's points in YuNet's boxes on 200 frames of 38 speakers, made symmetric
# (benchmarks/face_points.py repeats the measurement). On those frames a point so placed is off by 12 % of the eyes'
# distance in the mean, a tenth of them by more than 26 %: a box says little about where the face looks. S3FD was not
# measured; like YuNet it was trained on the boxes of WIDER FACE, forehead to chin, so YuNet's stand in for its boxes.
POINT_FRACTIONS = np.array([[0.26, 0.375], [0.74, 0.375], [0.5, 0.573], [0.295, 0.728], [0.705, 0.728]])


def estimate_points(box: np.ndarray) -> np.ndarray:
    """Where eyes, nose and mouth corners usually lie in a tight box (4,), for detectors without points: (5, 2)."""
    corner, size = np.asarray(box[:2]), np.asarray(box[2:]) - np.asarray(box[:2])
    return (corner + POINT_FRACTIONS * size).astype(np.float32)


@dataclass(frozen=True)
class TrackedFace:
    """The tracked face in frame `index`: box float32 (4,) and points (5, 2), NaN if not found."""

    index: int
    box: np.ndarray
    points: np.ndarray
    found: bool
    shot: int


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

    def save(self, path: str | Path) -> None:
        """Writes the track to one JSON file atomically; NaN becomes null."""
        size = list(self.size) if self.size else None
        record = {"schema": SCHEMA, "frames": len(self), "size": size, "fps": self.fps}
        record |= {"boxes": _to_lists(self.boxes), "points": _to_lists(self.points)}
        record |= {"found": self.found.tolist(), "shot": self.shot.tolist()}
        target = final_path(Path(path))
        text = json.dumps(record, allow_nan=False, separators=(",", ":"))
        with UnfinishedFolder(target.parent) as folder:
            part = Path(folder) / target.name
            part.write_text(text, encoding="utf-8")
            os.replace(part, target)

    @classmethod
    def load(cls, path: str | Path) -> FaceTrack:
        """Reads a track written by `save`; raises UsageError for anything else."""
        try:
            return cls._from_record(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UsageError(f"no face track at {path}") from None
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"{path} is not a face track ({SCHEMA}): {reason}") from error

    @classmethod
    def _from_record(cls, record: dict) -> FaceTrack:
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise UsageError("missing or different schema")
        count, size, fps = record["frames"], record["size"], record["fps"]
        boxes, points = _from_lists(record["boxes"], (count, 4)), _from_lists(record["points"], (count, 5, 2))
        found, shot = _column(record["found"], bool, count), _column(record["shot"], int, count)
        if size is not None:
            size = tuple(_column(size, int, 2).tolist())
        if not (fps is None or isinstance(fps, str)):
            raise UsageError("fps must be a string or null")
        if not np.array_equal(found, np.isfinite(boxes).all(1) & np.isfinite(points).all((1, 2))):
            raise UsageError("found disagrees with boxes and points")
        if (boxes[found, 2:] <= boxes[found, :2]).any():
            raise UsageError("a box is empty or inverted: left must be less than right, top less than bottom")
        if size is not None and _outside(boxes[found], size):
            raise UsageError(f"a box lies outside the frame of {size[0]}x{size[1]} pixels")
        return cls(boxes, points, found, shot.astype(np.int32), size, fps)


def _outside(boxes: np.ndarray, size: Sequence[int]) -> bool:
    """Whether any box (N, 4) does not overlap the frame."""
    return bool((boxes[:, 2:] <= 0).any() or (boxes[:, :2] >= np.asarray(size)).any())


def _to_lists(values: np.ndarray) -> list:
    """Shortest decimals that round-trip to the same float32, row by row; null for NaN."""
    flat = [float(str(value)) if math.isfinite(value) else None for value in values.ravel().astype(np.float32)]
    width = values[0].size if len(values) else 1
    return [flat[i : i + width] for i in range(0, len(flat), width)]


def _from_lists(rows: list, shape: tuple[int, ...]) -> np.ndarray:
    width = math.prod(shape[1:])
    if not isinstance(rows, list) or len(rows) != shape[0]:
        raise UsageError(f"{shape[0]} rows expected")
    for row in rows:
        if len(row) != width or not all(value is None or type(value) in (int, float) for value in row):
            raise UsageError(f"rows of {width} numbers expected")
    return np.array(rows, np.float32).reshape(shape)


def _column(values: list, kind: type, count: int) -> np.ndarray:
    if not isinstance(values, list) or len(values) != count or any(type(value) is not kind for value in values):
        raise UsageError(f"{count} values of type {kind.__name__} expected")
    return np.array(values, kind)
