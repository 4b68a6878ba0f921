"""Piecewise-affine warp of the lower face, with a smooth displacement field on skin and an exact one at the lips.

Implemented twice: here with NumPy and OpenCV, for one frame at native size, on coarse grids; in `warp_batch` with torch
for batches of crops, differentiable in both sets of vertices. The warp is backward: output pixel p samples input pixel
p + d(p).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import cv2
import numpy as np

from preprocessing.media.planar_frame import PlanarFrame
from wav2lip.renderer.triangulation import triangulation

if TYPE_CHECKING:
    from torch import Tensor

SKIN_SIGMA = 1.6  # canonical units; blur of the displacement away from the lips
LIP_MARGIN, LIP_SIGMA = 2.6, 1.0  # units; margin of exact displacement around the outer lip ring, and its blur
GRID_UNITS = 1.0  # spacing in units of the coarse grid for skin
LIP_GRID_UNITS = 0.2  # spacing of the fine grid for the lips
GRID_STEP = 128  # pixels; sides of the cached coordinates are multiples of it
_Array = TypeVar("_Array", np.ndarray, "Tensor")
FrameOrPlanes: TypeAlias = np.ndarray | PlanarFrame


@dataclass(frozen=True)
class Rectangle:
    """The frame pixels left ≤ x < right, top ≤ y < bottom."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, points: np.ndarray, margin: float, width: int, height: int) -> Rectangle:
        """Bounding rectangle of (N, 2) points with a margin in pixels, clipped to the frame."""
        (left, top), (right, bottom) = points.min(0)[:2].tolist(), points.max(0)[:2].tolist()
        left, right = floor(left - margin), ceil(right + margin) + 1
        top, bottom = floor(top - margin), ceil(bottom + margin) + 1
        return cls(
            *(min(max(at, 0), end) for at, end in ((left, width), (top, height), (right, width), (bottom, height)))
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return max(self.right - self.left, 0), max(self.bottom - self.top, 0)

    def even(self, width: int, height: int) -> Rectangle:
        """The rectangle extended to even corners, as far as a frame of this size goes."""
        right, bottom = min(self.right + self.right % 2, width), min(self.bottom + self.bottom % 2, height)
        return Rectangle(self.left // 2 * 2, self.top // 2 * 2, right, bottom)

    def aligned(self, outer: Rectangle, step: int) -> Rectangle:
        """The part inside `outer`, extended so that its corner lies on a grid of this spacing from the outer one's."""
        left, top = max(self.left - outer.left, 0), max(self.top - outer.top, 0)
        left, top = outer.left + left // step * step, outer.top + top // step * step
        return Rectangle(left, top, min(self.right, outer.right), min(self.bottom, outer.bottom))

    def view(self, frame: FrameOrPlanes) -> np.ndarray:
        """View of this rectangle in a frame; of a `PlanarFrame`, its BGR pixels."""
        return frame[self.top : self.bottom, self.left : self.right]

    def within(self, outer: Rectangle) -> tuple[slice, slice]:
        """Rows and columns of this rectangle in an array that covers `outer`."""
        top, left = self.top - outer.top, self.left - outer.left
        return slice(top, top + self.size[1]), slice(left, left + self.size[0])


def drawing_order(target: np.ndarray) -> np.ndarray:
    """(N,) drawing order of the triangles: the mouth opening first, then back to front (painter's algorithm)."""
    mesh = triangulation()
    depth = target[mesh.triangles, 2].mean(axis=1)
    return np.lexsort((-depth, ~mesh.inside_mouth))


def triangle_ids(target: np.ndarray, width: int, height: int, order: np.ndarray) -> np.ndarray:
    """(height, width) int32 index of the triangle that covers each pixel, -1 outside; target (V, 2) in pixels."""
    ids = np.full((height, width), -1, np.int32)
    corners = target[triangulation().triangles]
    seen = ((corners.max(axis=1) > -1) & (corners.min(axis=1) < (width, height))).all(axis=1)
    order = order[seen[order]]
    corners = np.round(corners[order] * 16).astype(np.int32)
    draw = cv2.fillConvexPoly
    for triangle, points in zip(order.tolist(), corners, strict=True):
        draw(ids, points, triangle, shift=4)
    return ids


def affine_displacements(source: _Array, target: _Array) -> tuple[_Array, _Array, _Array]:
    """The displacement of each triangle as an affine function, d(p) = a·x + b·y + c.

    Args:
        source, target: (..., N, 3, 2) corners.

    Returns:
        a, b, c, each (..., N, 2).
    """
    motion = source - target
    edge1, edge2 = target[..., 1, :] - target[..., 0, :], target[..., 2, :] - target[..., 0, :]
    change1, change2 = motion[..., 1, :] - motion[..., 0, :], motion[..., 2, :] - motion[..., 0, :]
    area = edge1[..., 0:1] * edge2[..., 1:2] - edge1[..., 1:2] * edge2[..., 0:1]
    thin = abs(area) < 1e-3  # degenerate triangle: constant displacement
    area = area * ~thin + thin
    a = (change1 * edge2[..., 1:2] - change2 * edge1[..., 1:2]) / area * ~thin
    b = (change2 * edge1[..., 0:1] - change1 * edge2[..., 0:1]) / area * ~thin
    return a, b, motion.mean(-2) - a * target[..., 0:1].mean(-2) - b * target[..., 1:2].mean(-2)


def displacement(source: np.ndarray, target: np.ndarray, scale: float, area: Rectangle, step: int = 0) -> np.ndarray:
    """The backward displacement field in a rectangle of a frame.

    Args:
        source, target: (V, 3) vertices before and after, pixels of the frame.
        scale: pixels per canonical unit.
        area: the rectangle.
        step: grid spacing in pixels; 0 to derive it from the scale.

    Returns:
        (height, width, 2) float32 pixels; 0 outside the triangulation.
    """
    fine = step or max(1, round(LIP_GRID_UNITS * scale))
    every = 1 if step else max(1, round(GRID_UNITS * scale / fine))  # the coarse grid is a part of the fine one
    coarse, sigma = fine * every, scale / (fine * every)
    corner, across, down = (area.left, area.top), *((side + coarse - 1) // coarse * every + 1 for side in area.size)
    ids = triangle_ids((target[:, :2] - corner) / fine, across, down, drawing_order(target))
    terms = _terms(source - (*corner, 0), target - (*corner, 0))
    inside = _inside(ids[::every, ::every], sigma)
    exact = _exact(terms, ids[::every, ::every], (0, 0), coarse)
    field = _smooth(cv2.multiply(_blur(exact, SKIN_SIGMA * sigma), cv2.merge([inside, inside])), area, coarse)
    near = _near_lips(target, area, scale, coarse).aligned(area, fine)
    if min(near.size) > 0:
        part = near.within(area)
        left, top = part[1].start, part[0].start
        width, height = ((side + fine - 1) // fine + 1 for side in near.size)
        lip_ids = ids[top // fine : top // fine + height, left // fine : left // fine + width]
        keep = _upsample(_lip_weight(target, area, coarse, scale), near, coarse, (left, top))
        sharp = _upsample(_exact(terms, lip_ids, (left, top), fine), near, fine)
        field[part] += cv2.multiply(cv2.subtract(sharp, field[part]), cv2.merge([keep, keep]))
    return field


def _near_lips(target: np.ndarray, area: Rectangle, scale: float, step: int) -> Rectangle:
    """The part of an area in which the displacement may be exact."""
    lips = target[triangulation().outer_lips, :2]
    return Rectangle.around(lips, (LIP_MARGIN + 3 * LIP_SIGMA) * scale + step, area.right, area.bottom)


def _terms(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(10, N + 1) float32: a, b, c, minimum and maximum motion of each triangle; the first, id -1, does not move.

    The same as `affine_displacements`, with x + iy for vectors, in a fraction of the operations.
    """
    triangles = triangulation().triangles
    corners, motion = (np.take(_complex(points), triangles.T) for points in (target, source - target))
    edge1, edge2 = corners[1] - corners[0], corners[2] - corners[0]
    change1, change2 = motion[1] - motion[0], motion[2] - motion[0]
    area = edge1.real * edge2.imag - edge1.imag * edge2.real
    inverse = np.where(np.abs(area) < 1e-3, 0, 1 / np.where(area == 0, 1, area))  # 0: degenerate, moved as a whole
    a = (change1 * edge2.imag - change2 * edge1.imag) * inverse
    b = (change2 * edge1.real - change1 * edge2.real) * inverse
    middle = corners.sum(axis=0) / 3
    c = motion.sum(axis=0) / 3 - a * middle.real - b * middle.imag
    x, y = motion.real, motion.imag
    limits = x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0)
    terms = np.zeros((10, len(a) + 1), np.float32)
    terms[:, 1:] = a.real, a.imag, b.real, b.imag, c.real, c.imag, *limits
    return terms


def _complex(points: np.ndarray) -> np.ndarray:
    """(V, 2 or more) points as x + iy."""
    return points[:, 0] + 1j * points[:, 1]


def _exact(terms: np.ndarray, ids: np.ndarray, corner: tuple[int, int], step: int) -> np.ndarray:
    """(h, w, 2) piecewise-affine displacement on a grid whose first sample lies at pixel `corner` (x, y).

    Args:
        terms: see `_terms`, relative to the same origin as the corner.
        ids: (h, w) triangles, see `triangle_ids`.
        step: grid spacing in pixels.
    """
    rows, columns = ids.shape
    x = np.arange(columns, dtype=np.float32) * step + corner[0]
    y = np.arange(rows, dtype=np.float32)[:, None] * step + corner[1]
    # Each component as an image of its own: over the short last axis of `evaluate`, NumPy is several times as slow.
    chosen = terms.take(ids.astype(np.intp) + 1, axis=1, mode="clip")
    ax, ay, bx, by, cx, cy, left, top, right, bottom = chosen
    exact = [cv2.min(cv2.max(ax * x + bx * y + cx, left), right), cv2.min(cv2.max(ay * x + by * y + cy, top), bottom)]
    return cv2.merge(exact)


def evaluate(terms: _Array, x: _Array, y: _Array) -> _Array:
    """Evaluates affine displacements, clipped to those of the corners, since slivers are rasterized too wide."""
    exact = terms[..., 0:2] * x + terms[..., 2:4] * y + terms[..., 4:6]
    return exact.clip(terms[..., 6:8], terms[..., 8:10])


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    side = 2 * int(np.ceil(3 * sigma)) + 1
    return cv2.GaussianBlur(image, (side, side), sigma)


def _inside(ids: np.ndarray, sigma: float) -> np.ndarray:
    """1 inside the triangulation, falling to exactly 0 at its border over the extent of the blur."""
    side = 2 * max(1, round(SKIN_SIGMA * sigma)) + 1
    whole = cv2.erode((ids >= 0).astype(np.float32), np.ones((side, side)), borderType=cv2.BORDER_REPLICATE)
    return cv2.blur(whole, (side, side), borderType=cv2.BORDER_REPLICATE)


def _lip_weight(target: np.ndarray, area: Rectangle, step: int, scale: float) -> np.ndarray:
    columns, rows = ((side + step - 1) // step + 1 for side in area.size)
    ring = target[triangulation().outer_lips, :2] - (area.left, area.top)
    return lip_mask(ring / step, columns, rows, scale / step)


def lip_mask(ring: np.ndarray, width: int, height: int, scale: float) -> np.ndarray:
    """(height, width) float32 mask of exact displacement; (20, 2) outer lip ring and scale in pixels."""
    mask = np.zeros((height, width), np.float32)
    cv2.fillPoly(mask, [np.round(ring * 16).astype(np.int32)], 1.0, shift=4)
    side = 2 * max(1, round(LIP_MARGIN * scale)) + 1
    return _blur(cv2.dilate(mask, np.ones((side, side), np.uint8)), LIP_SIGMA * scale)


def _upsample(grid: np.ndarray, area: Rectangle, step: int, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """A grid at every pixel of `area`, whose corner lies at pixel `corner` (x, y) of the grid's area."""
    (width, height), (left, top) = area.size, corner
    if step == 1:
        return grid[top : top + height, left : left + width]
    matrix = np.array([[step, 0, -left], [0, step, -top]], np.float64)
    return cv2.warpAffine(grid, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _smooth(grid: np.ndarray, area: Rectangle, step: int) -> np.ndarray:
    """A smooth grid at every pixel of `area`, by way of every second one, which takes half the time."""
    width, height = area.size
    if step < 3 or min(width, height) < 2:
        return np.ascontiguousarray(_upsample(grid, area, step))
    matrix = np.array([[step / 2, 0, -0.25], [0, step / 2, -0.25]], np.float64)
    half = cv2.warpAffine(grid, matrix, ((width + 1) // 2, (height + 1) // 2), borderMode=cv2.BORDER_REPLICATE)
    size = (width + width % 2, height + height % 2)
    return np.ascontiguousarray(cv2.resize(half, size, interpolation=cv2.INTER_LINEAR)[:height, :width])


def remap(image: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Samples an image at (h, w, 2) float32 coordinates, with cubic interpolation.

    At sub-pixel shifts, cubic interpolation keeps about 0.8 to 0.9 of the Laplacian variance around a mouth, linear
    interpolation half of it.
    """
    return cv2.remap(image, coordinates, np.empty(0), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def warp_frame(frame: np.ndarray, source: np.ndarray, target: np.ndarray, scale: float) -> tuple[np.ndarray, Rectangle]:
    """Warps a frame.

    Args:
        frame: (H, W, 3) uint8, not modified.
        source, target: (V, 3) vertices before and after, pixels.
        scale: pixels per canonical unit.

    Returns:
        The warped pixels of a rectangle, and the rectangle; pixels that do not move equal the frame's.
    """
    area = moving_area(frame.shape, source, target, scale)
    pixels = area.view(frame).copy()
    if pixels.size:
        _sample(frame, area, displacement(source, target, scale, area), pixels)
    return pixels, area


def warp_into(
    result: FrameOrPlanes, frame: FrameOrPlanes, source: np.ndarray, target: np.ndarray, scale: float
) -> None:
    """Warps a frame into a copy of it; see `warp_frame`. A `PlanarFrame` stays in its planes."""
    area = moving_area(frame.shape, source, target, scale)
    if min(area.size) == 0:
        return
    field = displacement(source, target, scale, area)
    if not isinstance(frame, PlanarFrame) or not isinstance(result, PlanarFrame):
        _sample(np.asarray(frame), area, field, area.view(result))
        return
    half = Rectangle(area.left // 2, area.top // 2, area.right // 2, area.bottom // 2)
    coarse = 0.5 * cv2.resize(field, half.size, interpolation=cv2.INTER_AREA)
    for before, after, part, motion in zip(
        (frame.luma, *frame.chroma), (result.luma, *result.chroma), (area, half, half), (field, coarse, coarse),
        strict=True,
    ):  # fmt: skip
        _sample(before, part, motion, part.view(after))


def moving_area(shape: tuple[int, ...], source: np.ndarray, target: np.ndarray, scale: float) -> Rectangle:
    """The part of a frame of this (H, W, ...) shape in which pixels move; its corners are even, where they can."""
    moved = np.abs(source - target)[:, :2].max(axis=1) > 0
    reach = np.vstack([source[moved, :2], target[moved, :2]])
    height, width = shape[:2]
    if not len(reach):
        return Rectangle(0, 0, 0, 0)
    return Rectangle.around(reach, 2 * SKIN_SIGMA * scale, width, height).even(width, height)


def _sample(image: np.ndarray, area: Rectangle, field: np.ndarray, result: np.ndarray) -> None:
    """Samples each pixel of an area of an image where its displacement points, with the interpolation of `remap`.

    Coordinates are rounded to 1/32 pixel, so motion of less than half of that leaves pixels as they are.
    """
    reach = int(np.ceil(cv2.norm(field, cv2.NORM_INF))) + 2  # cubic interpolation takes two pixels on each side
    height, width = image.shape[:2]
    left, top = max(area.left - reach, 0), max(area.top - reach, 0)
    wider = Rectangle(left, top, min(area.right + reach, width), min(area.bottom + reach, height))
    rows, columns = area.within(wider)
    at = cv2.add(field, _grid(columns.stop, rows.stop)[rows, columns])
    border = cv2.BORDER_REPLICATE
    given = cv2.remap(wider.view(image), at, np.empty(0), cv2.INTER_CUBIC, dst=result, borderMode=border)
    if given is not result:  # OpenCV did not take the view
        result[...] = given


def _grid(width: int, height: int) -> np.ndarray:
    """(height, width, 2) float32 coordinates of the pixels of a rectangle."""
    return _large_grid(-(-width // GRID_STEP) * GRID_STEP, -(-height // GRID_STEP) * GRID_STEP)[:height, :width]


@lru_cache(maxsize=4)
def _large_grid(width: int, height: int) -> np.ndarray:
    grid = np.empty((height, width, 2), np.float32)
    grid[..., 0], grid[..., 1] = np.arange(width), np.arange(height)[:, None]
    grid.setflags(write=False)
    return grid
