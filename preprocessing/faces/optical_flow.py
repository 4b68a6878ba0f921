"""Head motion between frames by optical flow, and face smoothing in head coordinates.

A face is float64 (7, 2) here: the two corners of its upright box, then its five points.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MIN_MATCHES = 6
MAX_GROWTH = 1.25  # of a head from one frame to the next; more is a failure of the flow


@dataclass(frozen=True)
class HeadMotion:
    """A 2D similarity transform over complex numbers: z maps to turn * z + shift."""

    turn: complex = 1.0 + 0.0j
    shift: complex = 0.0j

    def after(self, first: HeadMotion) -> HeadMotion:
        """Composition: `first`, then this motion."""
        return HeadMotion(self.turn * first.turn, self.turn * first.shift + self.shift)

    def inverse(self) -> HeadMotion:
        """The inverse motion."""
        return HeadMotion(1 / self.turn, -self.shift / self.turn)

    def move(self, face: np.ndarray) -> np.ndarray:
        """Applies the motion to a face (7, 2); the box stays upright, so only its center and scale change."""
        points = (face @ [1, 1j]) * self.turn + self.shift
        center, half = points[:2].mean(), (face[1] - face[0]) / 2 * abs(self.turn)
        box = np.array([[center.real, center.imag]]) + np.array([-half, half])
        return np.vstack([box, np.stack([points[2:].real, points[2:].imag], axis=1)])


def face_side(face: np.ndarray) -> float:
    """The side, in pixels, of the square with the area of the face's box."""
    width, height = face[1] - face[0]
    return float(np.sqrt(max(width * height, 1.0)))


def head_motion(previous: np.ndarray, current: np.ndarray, face: np.ndarray) -> HeadMotion | None:
    """Estimates the motion of `face` from `previous` to `current`, both gray (H, W); None on failure.

    A RANSAC similarity fit to the Lucas-Kanade flow of brows, eyes and nose; the mouth moves independently.
    """
    window = _window(previous.shape, face)
    offset = np.array([window[1].start, window[0].start])
    corners = cv2.goodFeaturesToTrack(previous[window], 40, 0.01, 3, mask=_upper_face(window, face - offset))
    if corners is None or len(corners) < MIN_MATCHES:
        return None
    guess = corners.copy()
    moved, status, _ = cv2.calcOpticalFlowPyrLK(previous[window], current[window], corners, guess, winSize=(15, 15))
    ok = status.ravel() == 1
    if ok.sum() < MIN_MATCHES:
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(
        corners[ok] + offset, moved[ok] + offset, ransacReprojThreshold=1.0, maxIters=200
    )
    if matrix is None or inliers.sum() < max(MIN_MATCHES, len(corners) / 2):
        return None
    turn = complex(matrix[0, 0], matrix[1, 0])
    return HeadMotion(turn, complex(matrix[0, 2], matrix[1, 2])) if 1 / MAX_GROWTH < abs(turn) < MAX_GROWTH else None


def _window(shape: tuple[int, ...], face: np.ndarray) -> tuple[slice, slice]:
    """The image region around the face, with margin for its motion."""
    room = 0.4 * face_side(face)
    low = np.clip(np.floor(face[0] - room), 0, [shape[1] - 1, shape[0] - 1]).astype(int)
    high = np.clip(np.ceil(face[1] + room), low + 1, [shape[1], shape[0]]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _upper_face(window: tuple[slice, slice], face: np.ndarray) -> np.ndarray:
    """A mask over the window: a quadrilateral aligned to the eyes, from the brows to the tip of the nose."""
    right, left, nose = face[2:5]
    middle, across = (right + left) / 2, 0.9 * (left - right)
    up, down = middle - 0.8 * (nose - middle), middle + 0.9 * (nose - middle)
    mask = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.uint8)
    corners = np.round([up - across, up + across, down + across, down - across])
    cv2.fillConvexPoly(mask, corners.astype(np.int32), 255)
    return mask


def smoothed(times: np.ndarray, faces: np.ndarray, sigma: float, stiffness: float) -> np.ndarray:
    """Gaussian-weighted local linear fit to faces (n, 7, 2) at `times` (n,), evaluated at time 0.

    `sigma` is in the unit of the times. The slope is regularized by `stiffness` (time squared), as in ridge
    regression: faces barely drift in head coordinates, and a free slope would follow noise at the end of a run.
    """
    weights = np.exp(-0.5 * (times / sigma) ** 2 + 0.5 * (np.abs(times).min() / sigma) ** 2)
    s0, s1, s2 = weights.sum(), weights @ times, weights @ times**2 + stiffness
    kernel = weights * (s2 - s1 * times) / (s0 * s2 - s1 * s1)
    return np.tensordot(kernel, faces, axes=1)


def between(times: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Linear interpolation of the faces at time 0 between the neighbors; the nearest face at the ends."""
    earlier, later = np.flatnonzero(times <= 0), np.flatnonzero(times > 0)
    if not len(earlier) or not len(later):
        return faces[earlier[-1] if len(earlier) else later[0]]
    one, two = earlier[-1], later[0]
    return faces[one] + (faces[two] - faces[one]) * (-times[one] / (times[two] - times[one]))
