"""Small motions of the head in a photo: it turns, nods and tilts by a degree or two, slowly, and never repeats.

The whole picture is warped, smoothly: most at the head, as far as a point of its depth moves when the head turns on the
neck, less around it, and not at all at the picture's borders, so that nothing from beyond them is ever needed.
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.faces.mesh import HeadPose
from wav2lip.renderer.target import smoothstep

SWAY = np.radians([2.4, 1.7, 1.5])  # largest turn to a side, nod and tilt
FASTEST, SLOWEST = 0.32, 0.05  # cycles per second
WAVES = 4  # in the motion about one axis
BEGIN = 1.5  # seconds in which the motion sets in
NECK = np.array([64.0, 150.0, 55.0])  # mesh units: where head and neck turn
HEAD = np.array([64.0, 50.0, 20.0])  # mesh units: the head's middle
WIDE, ABOVE, BELOW = 62.0, 88.0, 70.0  # mesh units from there to its sides, top and bottom, with the hair
FAR = 2.3  # of these radii: where nothing moves any more
EDGE = 0.12  # of the picture's shorter side: the motion fades out over it towards the borders
CELL = 8  # pixels; the motion is computed once for each square of that size, and smooth in between
STRIP = 32  # rows of these squares that are warped at once


class HeadSway:
    """The angles of the head by time: a sum of slow waves, random by its seed."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._rates = np.exp(random.uniform(np.log(SLOWEST), np.log(FASTEST), (3, WAVES)))
        self._phases = random.uniform(0, 2 * np.pi, (3, WAVES))
        sizes = random.uniform(0.5, 1, (3, WAVES)) / np.sqrt(self._rates)  # the slower, the larger
        self._sizes = SWAY[:, None] * sizes / sizes.sum(1, keepdims=True)

    def angles(self, time: float) -> np.ndarray:
        """(3,) radians at `time` seconds: turn to a side, nod, tilt; zero at time 0."""
        waves = self._sizes * np.sin(2 * np.pi * self._rates * time + self._phases)
        return waves.sum(1) * smoothstep(np.array(time), 0, BEGIN)


class HeadWarp:
    """Turns the head of one photo."""

    def __init__(self, points: np.ndarray, size: tuple[int, int]) -> None:
        """
        Args:
            points: (206, 3) mesh points, pixels.
            size: height and width of the picture.
        """
        rows, columns = (np.arange(-(-side // CELL)) * CELL + (CELL - 1) / 2 for side in size)
        x, y = np.meshgrid(columns, rows)
        pose = HeadPose.of(points)
        weight = _head_weight(pose, x, y) * _border_weight(x, y, size)
        neck = pose.repose(NECK[None])[0]
        depth = _depth(points, x, y) - neck[2]
        still = np.zeros_like(depth)
        fields = np.array([(-depth, still), (still, -depth), (neck[1] - y, x - neck[0])]) * weight
        moving = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
        ends = [(max(n[0] - 1, 0), n[-1] + 2) if len(n) else (0, 0) for n in moving]
        self._first, inside = [first for first, _ in ends], [slice(*pair) for pair in ends]
        self._fields = np.moveaxis(fields[:, :, *inside], 1, -1).astype(np.float32)  # pixels per radian

    def turn(self, picture: np.ndarray, angles: np.ndarray) -> np.ndarray:
        """The picture, (H, W, 3) uint8, with the head turned by (3,) radians, see `HeadSway.angles`."""
        result = picture.copy()
        if np.any(angles):
            moved = np.tensordot(np.asarray(angles, np.float32), self._fields, 1)
            for first in range(0, len(moved), STRIP):
                self._turn_strip(result, picture, moved, first)
        return result

    def _turn_strip(self, result: np.ndarray, picture: np.ndarray, moved: np.ndarray, first: int) -> None:
        """Some rows of cells, so that little memory is taken in large photos."""
        before, after = max(first - 1, 0), min(first + STRIP + 1, len(moved))
        offsets = cv2.resize(moved[before:after], None, fx=CELL, fy=CELL, interpolation=cv2.INTER_LINEAR)
        offsets = offsets[(first - before) * CELL :][: STRIP * CELL]
        top, left = (self._first[0] + first) * CELL, self._first[1] * CELL
        strip = result[top : top + len(offsets), left : left + offsets.shape[1]]
        places = -offsets[: len(strip), : strip.shape[1]]
        places[..., 0] += np.arange(left, left + strip.shape[1], dtype=np.float32)
        places[..., 1] += np.arange(top, top + len(strip), dtype=np.float32)[:, None]
        unused = np.empty(0, np.float32)
        strip[:] = cv2.remap(picture, places, unused, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _depth(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the face at pixels, a bowl fitted to its points; beyond them, no farther than the farthest one."""
    centre = points[:, :2].mean(0)

    def terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x - centre[0], y - centre[1]
        return np.stack([np.ones_like(x), x, y, x**2 + y**2], -1)

    known = np.asarray(points, np.float64)
    bowl = np.linalg.lstsq(terms(known[:, 0], known[:, 1]), known[:, 2], rcond=None)[0]
    return np.clip(terms(x, y) @ bowl, known[:, 2].min(), known[:, 2].max())


def _head_weight(pose: HeadPose, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 on the head, falling to 0 around it."""
    across = np.array([pose.rotation[0, 0], pose.rotation[1, 0]])
    across = across / np.hypot(*across)
    middle = pose.repose(HEAD[None])[0]
    offset = np.stack([x - middle[0], y - middle[1]], -1) / float(pose.scale)
    right, down = offset @ across, offset @ np.array([-across[1], across[0]])
    radius = np.hypot(right / WIDE, down / np.where(down < 0, ABOVE, BELOW))
    return 1 - smoothstep(radius, 1, FAR)


def _border_weight(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """0 within `CELL` pixels of a border, 1 farther inside."""
    inside = np.minimum(np.minimum(x, size[1] - 1 - x), np.minimum(y, size[0] - 1 - y))
    return smoothstep(inside, CELL, CELL + EDGE * min(size))
