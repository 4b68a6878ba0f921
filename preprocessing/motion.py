"""A face's motion: carried from one frame to the next by optical flow, and smoothed without lag.

A face is held here as float64 (7, 2): the two corners of its box, then its five points.
"""

import cv2
import numpy as np

MIN_MATCHES = 6


def face_side(face: np.ndarray) -> float:
    """The side, in pixels, of the square with the box's area."""
    width, height = face[1] - face[0]
    return float(np.sqrt(max(width * height, 1.0)))


def carry(previous: np.ndarray, current: np.ndarray, face: np.ndarray) -> np.ndarray | None:
    """The face (7, 2) of the `previous` grey picture as it lies in the `current` one; None where that cannot be told.

    A similarity by Lucas-Kanade flow of the eyes, brows and nose; never the mouth, whose motion is not the head's.
    """
    window = _window(previous.shape, face)
    corners = cv2.goodFeaturesToTrack(previous[window], 48, 0.01, 3, mask=_upper_face(window, face))
    if corners is None or len(corners) < MIN_MATCHES:
        return None
    moved, status, _ = cv2.calcOpticalFlowPyrLK(previous[window], current[window], corners, None, winSize=(15, 15))
    ok = status.ravel() == 1
    if ok.sum() < MIN_MATCHES:
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(corners[ok], moved[ok], ransacReprojThreshold=1.0)
    if matrix is None or inliers.sum() < max(MIN_MATCHES, 0.5 * len(corners)):
        return None
    return _moved(face, matrix, np.array([window[1].start, window[0].start]))


def _window(shape: tuple[int, ...], face: np.ndarray) -> tuple[slice, slice]:
    """The part of a picture around the face, with room for its motion."""
    room = 0.5 * face_side(face)
    low = np.maximum(np.floor(face[0] - room), 0).astype(int)
    high = np.minimum(np.ceil(face[1] + room), [shape[1], shape[0]]).astype(int)
    high = np.maximum(high, low + 1)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _upper_face(window: tuple[slice, slice], face: np.ndarray) -> np.ndarray:
    """A mask over the window: a rectangle that turns with the eyes, from the brows to the tip of the nose."""
    offset = np.array([window[1].start, window[0].start])
    right, left, nose = face[2:5] - offset
    middle, across = (right + left) / 2, left - right
    down = nose - middle
    corners = [middle - 0.9 * across - 0.8 * down, middle + 0.9 * across - 0.8 * down]
    corners += [middle + 0.9 * across + 0.9 * down, middle - 0.9 * across + 0.9 * down]
    mask = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.uint8)
    cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 255)
    return mask


def _moved(face: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The face under a similarity (2, 3) of window coordinates; the box keeps upright."""
    points = (face - offset) @ matrix[:, :2].T + matrix[:, 2] + offset
    centre = (points[0] + points[1]) / 2
    half = (face[1] - face[0]) / 2 * np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    return np.vstack([centre - half, centre + half, points[2:]])


def smooth_at(times: np.ndarray, faces: np.ndarray, time: float, radius: int) -> np.ndarray:
    """The face at `time` by a straight line fitted to its neighbours (n, 7, 2) with Gaussian weights.

    Amid its neighbours this is a plain Gaussian average; at the ends of a run the line keeps it from lagging behind.
    """
    t = times - time
    weights = np.exp(-0.5 * (2.0 * t / (radius + 1)) ** 2)
    s0, s1, s2 = weights.sum(), (weights * t).sum(), (weights * t * t).sum()
    spread = s0 * s2 - s1 * s1
    kernel = weights * (s2 - s1 * t) / spread if spread > 1e-9 else weights / s0
    return np.tensordot(kernel, faces, axes=1)
