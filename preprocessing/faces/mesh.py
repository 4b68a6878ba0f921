"""The face mesh: the MediaPipe FaceMesh points that are followed, the canonical face, head pose and rest shape.

Shapes are turned to the front and scaled so that the eyes' midpoints lie 42 units apart (`HeadPose.unpose`); y points
down, a smaller z is nearer. An array index (`POINT[13]`) and a mesh index (13) are different things: every array here
has the 206 points of `MESH_INDICES` in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import numpy as np

from preprocessing.errors import UsageError

MESH_INDICES: tuple[int, ...] = (
    0, 1, 2, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 32, 33, 37, 38, 39, 40, 41, 42, 43, 55, 57, 58, 61,
    62, 72, 73, 74, 76, 77, 78, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 94, 95, 96, 97, 99, 106, 125, 127,
    130, 132, 133, 135, 136, 138, 140, 141, 146, 148, 149, 150, 151, 152, 164, 165, 167, 168, 169, 170, 171, 172, 175,
    176, 177, 178, 179, 180, 181, 182, 183, 184, 185, 186, 187, 191, 192, 194, 195, 197, 199, 200, 201, 202, 204, 206,
    207, 208, 210, 211, 212, 213, 214, 215, 216, 234, 241, 242, 250, 262, 263, 267, 268, 269, 270, 271, 272, 273, 285,
    287, 288, 291, 292, 302, 303, 304, 306, 307, 308, 310, 311, 312, 313, 314, 315, 316, 317, 318, 319, 320, 321, 322,
    324, 325, 326, 328, 335, 354, 356, 359, 361, 362, 364, 365, 367, 369, 370, 375, 377, 378, 379, 391, 393, 394, 395,
    396, 397, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 415, 416, 418, 421, 422, 424, 426, 427, 428,
    430, 431, 432, 433, 434, 435, 436, 454, 461, 462,
)  # fmt: skip
"""MediaPipe FaceMesh's numbers of our points: lower face, lips, jaw, eye corners, bridge, temples."""

POINT: dict[int, int] = {mesh: place for place, mesh in enumerate(MESH_INDICES)}
"""Mesh index → row of our arrays."""


def _rows(*mesh: int) -> np.ndarray:
    return np.array([POINT[index] for index in mesh])


LIPS_OUTER = _rows(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
LIPS_INNER = _rows(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
"""Closed rings of 20 points, both from the right corner along the lower lip to the left corner and back."""
JAW = _rows(132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361)
STABLE = _rows(33, 133, 362, 263, 168, 6, 197, 195, 8, 9, 151, 127, 356, 130, 359, 55, 285)
"""Points that speech hardly moves: eye corners, bridge, forehead, temples. They give the head's pose."""
RIGHT_EYE, LEFT_EYE = _rows(33, 133), _rows(362, 263)
UPPER_LIP, LOWER_LIP = POINT[13], POINT[14]  # middles of the inner ring
RIGHT_CORNER, LEFT_CORNER = POINT[61], POINT[291]

REST_SHARE = 0.12  # of a person's frames, the least open, make the face at rest


@cache
def canonical_face() -> np.ndarray:
    """A mean face turned to the front, (206, 3) float64 in units (eyes' midpoints 42 apart, right eye at (43, 44))."""
    with files(__package__).joinpath("canonical_face.npy").open("rb") as file:
        face = np.load(file, allow_pickle=False).astype(np.float64)
    face.setflags(write=False)
    return face


@cache
def lower_face() -> np.ndarray:
    """Rows of the points that speech moves: those below the nose's tip."""
    face = canonical_face()
    return np.flatnonzero(face[:, 1] > face[POINT[2], 1] - 2)


@dataclass(frozen=True)
class Landmarks:
    """The mesh points of one face in one frame.

    Attributes:
        points: (206, 3) float32, pixels; z in pixels, too.
        presence: 0 to 1, how surely a face with an uncovered mouth is there.
    """

    points: np.ndarray
    presence: float = 1.0

    @cached_property
    def pose(self) -> HeadPose:
        """The head's pose, `HeadPose.of(points)`, fitted once."""
        return HeadPose.of(self.points)


@cache
def _stable_points() -> tuple[np.ndarray, np.ndarray, float]:
    """The canonical face's stable points around their mean, (17, 3), the mean, and the sum of their squares."""
    points = canonical_face()[STABLE]
    centred = points - points.mean(0)
    return centred, points.mean(0), float((centred**2).sum())


@dataclass(frozen=True)
class HeadPose:
    """A similarity from the canonical face into a frame, frame = scale · rotation · canonical + translation.

    Attributes:
        scale: (...,) pixels per unit.
        rotation: (..., 3, 3).
        translation: (..., 3) pixels.
    """

    scale: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray) -> HeadPose:
        """The least-squares pose (Umeyama, 1991) of (..., 206, 3) points, by those that speech does not move."""
        return cls.of_stable(np.asarray(points)[..., STABLE, :])

    @classmethod
    def of_stable(cls, points: np.ndarray) -> HeadPose:
        """The same from the stable points alone, (..., 17, 3)."""
        source, centre, spread = _stable_points()
        target = np.asarray(points, np.float64)
        middle = target.sum(-2) / len(source)
        products = np.swapaxes(target - middle[..., None, :], -1, -2) @ source
        left, sizes, right = np.linalg.svd(products)
        flip = np.where(_determinant(products) < 0, -1.0, 1.0)  # a rotation, never a mirror image
        left[..., 2] *= flip[..., None]
        rotation = left @ right
        scale = (sizes[..., 0] + sizes[..., 1] + flip * sizes[..., 2]) / spread
        return cls(scale, rotation, middle - scale[..., None] * (rotation @ centre))

    def unpose(self, points: np.ndarray) -> np.ndarray:
        """Frame → canonical: (..., P, 3) pixels to units, the head turned to the front."""
        shifted = np.asarray(points, np.float64) - self.translation[..., None, :]
        return shifted @ self.rotation / self.scale[..., None, None]

    def repose(self, shape: np.ndarray) -> np.ndarray:
        """Canonical → frame: (..., P, 3) units to pixels."""
        turned = np.asarray(shape, np.float64) @ np.swapaxes(self.rotation, -1, -2)
        return self.scale[..., None, None] * turned + self.translation[..., None, :]

    def __getitem__(self, index: int) -> HeadPose:
        """One of several poses."""
        return HeadPose(self.scale[index], self.rotation[index], self.translation[index])

    def yaw(self) -> np.ndarray:
        """(...,) degrees by which the head is turned to a side, 0 from the front."""
        return np.degrees(np.arcsin(np.clip(-self.rotation[..., 2, 0], -1, 1)))


def _determinant(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) → (...,); for a single matrix several times as fast as NumPy's."""
    (a, b, c), (d, e, f), (g, h, i) = np.moveaxis(matrix, (-2, -1), (0, 1)) if matrix.ndim > 2 else matrix.tolist()
    return np.asarray(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


def opening(shape: np.ndarray) -> np.ndarray:
    """(..., 206, 3) → (...,) distance of the inner lips' middles in the picture plane."""
    return np.linalg.norm(shape[..., UPPER_LIP, :2] - shape[..., LOWER_LIP, :2], axis=-1)


def mouth_width(shape: np.ndarray) -> np.ndarray:
    """(..., 206, 3) → (...,) distance of the mouth's corners in the picture plane."""
    return np.linalg.norm(shape[..., LEFT_CORNER, :2] - shape[..., RIGHT_CORNER, :2], axis=-1)


def rest_shape(shapes: np.ndarray) -> np.ndarray:
    """A person's face at rest: (T, 206, 3) unposed shapes → (206, 3), the median of the least open frames.

    Raises:
        UsageError: no frame is given.
    """
    if len(shapes) == 0:
        raise UsageError("a face at rest needs at least one frame")
    count = max(1, round(REST_SHARE * len(shapes)))
    return np.median(shapes[np.argsort(opening(shapes), kind="stable")[:count]], axis=0)
