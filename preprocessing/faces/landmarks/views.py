"""Views: square regions of a frame used as landmark network input, and the transforms between the two."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.faces.mesh import HeadPose
from preprocessing.media.planar_frame import PlanarFrame

FACE_SIDE, MOUTH_SIDE = 162.0, 68.0  # sides of the squares, in units of the canonical face
FACE_CENTER = np.array([64.0, 66.0, 8.0])  # their centers on the canonical face
MOUTH_CENTER = np.array([64.0, 98.0, -4.0])
BOX_SIDE = 1.38  # side of the face view relative to the longer side of a detector box
SHRINK = 0.7  # stronger reductions are area-averaged first to avoid aliasing


@dataclass(frozen=True)
class View:
    """A square in a frame.

    Attributes:
        center: (2,) x, y, frame pixels.
        side: side length, frame pixels.
        angle: rotation in radians, clockwise on screen.
    """

    center: np.ndarray
    side: float
    angle: float = 0.0

    def matrix(self, size: int) -> np.ndarray:
        """The matrix (2, 3) from frame pixels to crop pixels; pixel centers have integer coordinates."""
        scale, (x, y) = size / self.side, self.center
        cos, sin, middle = math.cos(self.angle) * scale, math.sin(self.angle) * scale, (size - 1) / 2
        return np.array([[cos, sin, middle - cos * x - sin * y], [-sin, cos, middle + sin * x - cos * y]])

    def crop(self, frame: np.ndarray | PlanarFrame, size: int) -> np.ndarray:
        """The square as (size, size, 3) pixels; black outside the frame."""
        return warp(frame, self.matrix(size), size)

    def to_crop(self, points: np.ndarray, size: int) -> np.ndarray:
        """(..., 2 or 3) frame pixels → crop pixels; depth is scaled with the image."""
        matrix = self.matrix(size)
        plane = points[..., :2] @ matrix[:, :2].T + matrix[:, 2]
        return np.concatenate([plane, points[..., 2:] * size / self.side], -1)

    def to_frame(self, points: np.ndarray, size: int) -> np.ndarray:
        """Inverse of `to_crop`."""
        matrix, scale = self.matrix(size), self.side / size
        result = points * scale
        result[..., :2] = (result[..., :2] - matrix[:, 2] * scale) @ (matrix[:, :2] * scale)  # a rotation's inverse
        return result

    def moved(self, shift: np.ndarray, zoom: float = 1.0, turn: float = 0.0) -> View:
        """A view shifted by (2,) fractions of the side along its axes, scaled by `zoom` and rotated."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along = np.array([[cos, -sin], [sin, cos]]) @ np.asarray(shift) * self.side
        return View(self.center + along, self.side * zoom, self.angle + turn)


def warp(frame: np.ndarray | PlanarFrame, matrix: np.ndarray, size: int) -> np.ndarray:
    """Warps a frame by a matrix (2, 3) to a (size, size, 3) crop; strong reductions are area-averaged first."""
    (a, b, _), (c, d, _) = matrix.tolist()
    scale = math.sqrt(abs(a * d - b * c))
    factor = int(1 / scale + 1 - SHRINK)
    if factor >= 2 or isinstance(frame, PlanarFrame):
        frame, matrix = _reduced(frame, matrix, size, max(factor, 1))
    return cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _reduced(
    frame: np.ndarray | PlanarFrame, matrix: np.ndarray, size: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """The frame region under the crop, reduced by `factor`, and the matrix from it to the crop."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) - matrix[:, 2]
    corners = corners @ np.linalg.inv(matrix[:, :2]).T
    first = np.clip(np.floor(corners.min(0)).astype(int) - factor, 0, None)
    last = np.clip(np.ceil(corners.max(0)).astype(int) + factor, first + factor, None)
    last = np.minimum(last, (frame.shape[1], frame.shape[0]))
    width, height = ((last - first) // factor).tolist()
    if height <= 0 or width <= 0:
        return np.zeros((1, 1, 3), frame.dtype), np.array([[1.0, 0, -9], [0, 1, -9]])
    rows, columns = slice(first[1], first[1] + height * factor), slice(first[0], first[0] + width * factor)
    if isinstance(frame, PlanarFrame) and factor > 1:
        small = frame.reduced(rows, columns, width, height)
    elif factor > 1:
        small = cv2.resize(frame[rows, columns], (width, height), interpolation=cv2.INTER_AREA)
    else:
        small = frame[rows, columns]
    offset = first + (factor - 1) / 2  # pixel 0 of the reduced image is the mean of the first `factor` pixels
    return small, np.column_stack([matrix[:, :2] * factor, matrix[:, 2] + matrix[:, :2] @ offset])


def box_view(box: np.ndarray) -> View:
    """The upright face view for a detector box (4,), x1 y1 x2 y2."""
    corner, far = np.asarray(box[:2], np.float64), np.asarray(box[2:], np.float64)
    return View((corner + far) / 2, BOX_SIDE * float((far - corner).max()))


def face_view(pose: HeadPose) -> View:
    """The face view for a head pose: rotated by its roll, independent of the mouth."""
    return _posed(pose, FACE_CENTER, FACE_SIDE)


def mouth_view(pose: HeadPose) -> View:
    """The mouth and chin view for a head pose."""
    return _posed(pose, MOUTH_CENTER, MOUTH_SIDE)


def roll(pose: HeadPose) -> float:
    """In-plane head rotation in radians: the planar rotation nearest to the head's."""
    turn = pose.rotation
    return float(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))


def _posed(pose: HeadPose, center: np.ndarray, side: float) -> View:
    return View(pose.repose(center[None])[0, :2], float(pose.scale) * side, roll(pose))
