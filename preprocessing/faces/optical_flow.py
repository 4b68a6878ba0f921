"""A head's motion from frame to frame by optical flow, and a face's place smoothed in the coordinates of that motion.

A face is held here as float64 (7, 2): the two corners of its upright box, then its five points.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MIN_MATCHES = 6
MAX_GROWTH = 1.25  # of a head from one frame to the next; more is a failure of the flow


@dataclass(frozen=True)
class HeadMotion:
    """A similarity of the plane, over complex numbers: z goes to turn * z + shift."""

    turn: complex = 1.0 + 0.0j
    shift: complex = 0.0j

    def after(self, first: HeadMotion) -> HeadMotion:
        """This motion following upon `first`."""
        return HeadMotion(self.turn * first.turn, self.turn * first.shift + self.shift)

    def inverse(self) -> HeadMotion:
        """The motion that undoes this one."""
        return HeadMotion(1 / self.turn, -self.shift / self.turn)

    def move(self, face: np.ndarray) -> np.ndarray:
        """A face (7, 2) moved; its box keeps upright, so it moves by its centre and scale."""
        points = (face @ [1, 1j]) * self.turn + self.shift
        centre, half = points[:2].mean(), (face[1] - face[0]) / 2 * abs(self.turn)
        box = np.array([[centre.real, centre.imag]]) + np.array([-half, half])
        return np.vstack([box, np.stack([points[2:].real, points[2:].imag], axis=1)])


def face_side(face: np.ndarray) -> float:
    """The side, in pixels, of the square with the area of the face's box."""
    width, height = face[1] - face[0]
    return float(np.sqrt(max(width * height, 1.0)))


def head_motion(previous: np.ndarray, current: np.ndarray, face: np.ndarray) -> HeadMotion | None:
    """How the head with this face in `previous` has moved in `current`, both grey (H, W); None if that cannot be told.

    A robust similarity to the Lucas-Kanade flow of brows, eyes and nose; never the mouth, which moves by itself.
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
    """The part of a picture around the face, with room for its motion."""
    room = 0.4 * face_side(face)
    low = np.clip(np.floor(face[0] - room), 0, [shape[1] - 1, shape[0] - 1]).astype(int)
    high = np.clip(np.ceil(face[1] + room), low + 1, [shape[1], shape[0]]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _upper_face(window: tuple[slice, slice], face: np.ndarray) -> np.ndarray:
    """A mask over the window: a quadrangle that turns with the eyes, from the brows to the tip of the nose."""
    right, left, nose = face[2:5]
    middle, across = (right + left) / 2, 0.9 * (left - right)
    up, down = middle - 0.8 * (nose - middle), middle + 0.9 * (nose - middle)
    mask = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.uint8)
    corners = np.round([up - across, up + across, down + across, down - across])
    cv2.fillConvexPoly(mask, corners.astype(np.int32), 255)
    return mask


def smoothed(times: np.ndarray, faces: np.ndarray, sigma: float, stiffness: float) -> np.ndarray:
    """The face at time 0 by a straight line fitted to faces (n, 7, 2) at `times` (n,) with Gaussian weights.

    `sigma` is in the unit of the times. The line's slope is held back by `stiffness` (time squared), as in ridge
    regression: faces in head coordinates hardly drift, and at the end of a run a free slope would follow the noise.
    """
    weights = np.exp(-0.5 * (times / sigma) ** 2 + 0.5 * (np.abs(times).min() / sigma) ** 2)
    s0, s1, s2 = weights.sum(), weights @ times, weights @ times**2 + stiffness
    kernel = weights * (s2 - s1 * times) / (s0 * s2 - s1 * s1)
    return np.tensordot(kernel, faces, axes=1)


def between(times: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The face at time 0 on the straight line between the one before (or at) it and the next; the nearer at an end."""
    earlier, later = np.flatnonzero(times <= 0), np.flatnonzero(times > 0)
    if not len(earlier) or not len(later):
        return faces[earlier[-1] if len(earlier) else later[0]]
    one, two = earlier[-1], later[0]
    return faces[one] + (faces[two] - faces[one]) * (-times[one] / (times[two] - times[one]))
