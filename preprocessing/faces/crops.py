"""Maps faces to square network crops and back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.errors import UsageError

# Eye and nose positions in a crop of side 1 (96 pixels: (29, 12), (67, 12), (48, 35)). Mouth and chin are left out:
# a crop aligned to the chin leaks how far the mouth is open.
TEMPLATE = np.array([[29, 12], [67, 12], [48, 35]], np.float64) / 96


@dataclass(frozen=True)
class CropGeometry:
    """How a face is mapped to a square crop.

    Attributes:
        kind: "box" stretches the detector's box, as the released networks expect; "points" aligns
            the face by a similarity transform on eyes and nose.
        size: side of the square in pixels.
        pads: pixels of the frame added to the box at its top, bottom, left and right ("box" only).
    """

    kind: str = "points"
    size: int = 96
    pads: tuple[int, int, int, int] = (0, 10, 0, 0)

    def __post_init__(self) -> None:
        if self.kind not in ("box", "points"):
            raise UsageError(f"crop geometry must be 'box' or 'points', not {self.kind!r}")

    def matrix(self, box: np.ndarray, points: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
        """The affine matrix from frame to crop pixels.

        Args:
            box: (4,) x1, y1, x2, y2.
            points: (5, 2), right eye, left eye, nose, mouth corners.
            frame_size: width and height of the frame.

        Returns:
            (2, 3) float64; pixel centers have integer coordinates.
        """
        if self.kind == "points":
            return similarity(np.asarray(points[:3], np.float64), TEMPLATE * self.size - 0.5)
        return _box_matrix(padded_box(box, self.pads, frame_size), self.size)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity transform (rotation, scale, translation) from `source` to `target`.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991),
    solved over complex numbers, where rotation and scale form one factor.

    Args:
        source: (n, 2).
        target: (n, 2).

    Returns:
        (2, 3) float64.
    """
    p, q = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    centered = p - p.mean()
    factor = np.vdot(centered, q - q.mean()) / max(np.vdot(centered, centered).real, 1e-9)
    shift = q.mean() - factor * p.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def padded_box(
    box: np.ndarray, pads: tuple[int, int, int, int], frame_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Pads a detector box in whole pixels, clipped to the frame and never empty, as in the original.

    Returns:
        x1, y1, x2, y2.
    """
    width, height = frame_size
    top, bottom, left, right = pads
    x1, y1, x2, y2 = (int(v) for v in box)
    x1, y1 = min(max(x1 - left, 0), width - 1), min(max(y1 - top, 0), height - 1)
    return x1, y1, max(x1 + 1, min(x2 + right, width)), max(y1 + 1, min(y2 + bottom, height))


def _box_matrix(box: tuple[int, int, int, int], size: int) -> np.ndarray:
    x1, y1, x2, y2 = box
    sx, sy = size / (x2 - x1), size / (y2 - y1)
    return np.array([[sx, 0, (0.5 - x1) * sx - 0.5], [0, sy, (0.5 - y1) * sy - 0.5]])


def crop(frame: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Cuts a square out of a frame.

    An axis-aligned box on whole pixels is resized bilinearly, exactly as in the original. A rotated crop of a large
    face is first reduced by area averaging to avoid aliasing. Edge pixels are replicated outside the frame.

    Args:
        frame: (H, W, 3) uint8.
        matrix: (2, 3) from frame to crop pixels.

    Returns:
        (size, size, 3) uint8.
    """
    box = _whole_box(matrix, size, frame.shape)
    if box is not None:
        x1, y1, x2, y2 = box
        return cv2.resize(frame[y1:y2, x1:x2], (size, size), interpolation=cv2.INTER_LINEAR)
    shrink = int(1 / max(np.sqrt(abs(np.linalg.det(matrix[:, :2]))), 1e-6))
    if shrink >= 2:
        frame, matrix = _reduced(frame, matrix, size, shrink)
    return cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _whole_box(matrix: np.ndarray, size: int, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """The box of whole pixels inside a frame of `shape` that `matrix` maps to the square, if there is one."""
    (a, b, c), (d, e, f) = matrix
    if b or d or a <= 0 or e <= 0:
        return None
    corners = np.array([(-0.5 - c) / a, (-0.5 - f) / e, (size - 0.5 - c) / a, (size - 0.5 - f) / e]) + 0.5
    whole = np.rint(corners)
    if np.abs(whole - corners).max() > 1e-6 or whole.min() < 0 or whole[2] > shape[1] or whole[3] > shape[0]:
        return None
    x1, y1, x2, y2 = whole.astype(int)
    return int(x1), int(y1), int(x2), int(y2)


def _reduced(frame: np.ndarray, matrix: np.ndarray, size: int, shrink: int) -> tuple[np.ndarray, np.ndarray]:
    """The frame region under the crop, reduced by an integer factor, and the matching matrix."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.T
    height, width = frame.shape[:2]
    x1, y1 = (int(np.clip(v, 0, limit - 1)) for v, limit in zip(corners.min(0) - shrink, (width, height), strict=True))
    x2, y2 = (int(np.clip(v, 1, limit)) for v, limit in zip(corners.max(0) + shrink, (width, height), strict=True))
    columns, rows = max(1, (max(x2, x1 + 1) - x1) // shrink), max(1, (max(y2, y1 + 1) - y1) // shrink)
    part = frame[y1 : y1 + max(rows * shrink, 1), x1 : x1 + max(columns * shrink, 1)]
    small = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    fx, fy = part.shape[1] / columns, part.shape[0] / rows
    back = np.array([[fx, 0, x1 + (fx - 1) / 2], [0, fy, y1 + (fy - 1) / 2], [0, 0, 1]])
    return small, matrix @ back
