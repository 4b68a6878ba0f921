"""Finds what covers the lower face, so that a new mouth does not move or paint over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from preprocessing.compiled_networks import Network, load_network
from preprocessing.faces.landmarks.views import View, roll
from preprocessing.faces.mesh import LIPS_OUTER, HeadPose, lower_face
from preprocessing.media.planar_frame import PlanarFrame

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights" / "occlusion.safetensors"
SIZE, CELLS = 112, 56  # sides of the network's input and output, pixels
SIDE = 112.0  # side of the view in units of the canonical face
CENTER = np.array([64.0, 94.0, 0.0])  # its center on the canonical face: a little above the mouth
SURE = (0.6, 0.85)  # probabilities at which a cell starts to count as covered, and at which it fully does
MIN_CELLS, MIN_SHARE = 25, 0.15  # of a covered spot: cells before the lower face, and their share of the spot
LIPSTICK = (0.95, 0.55)  # shares of a spot on the lips, and of the lips in the spot, from which it is lipstick
LIPS_GROWTH = 5  # cells; side of the square by which the lips grow for the first, since spots are coarse
GROWTH = 3  # cells; side of the square by which the mask grows, over what the warp drags along its border


def occlusion_view(pose: HeadPose) -> View:
    """The square around the lower face that the network sees."""
    return View(pose.repose(CENTER[None])[0, :2], float(pose.scale) * SIDE, roll(pose))


@dataclass(frozen=True)
class OcclusionMask:
    """What covers a face.

    Attributes:
        view: the square that the mask covers.
        cells: (CELLS, CELLS) float32, 0 free to 1 covered.
    """

    view: View
    cells: np.ndarray

    def over(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """(height, width) float32 mask of a rectangle of the frame; 0 outside the view."""
        to_cells = self.view.matrix(CELLS)
        to_cells[:, 2] += to_cells[:, :2] @ (left, top)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(self.cells, to_cells, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT)

    def restore(self, result: np.ndarray | PlanarFrame, frame: np.ndarray | PlanarFrame) -> None:
        """Writes the covered pixels of a frame, BGR or planar, back into one that was made from it."""
        rows, columns = self._region(*frame.shape[:2])
        width, height = columns.stop - columns.start, rows.stop - rows.start
        if min(width, height) <= 0:
            return
        covered = self.over(columns.start, rows.start, width, height)
        if isinstance(result, PlanarFrame) and isinstance(frame, PlanarFrame):
            _mix(result.luma[rows, columns], frame.luma[rows, columns], covered)
            half = cv2.resize(covered, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            part = (slice(rows.start // 2, rows.stop // 2), slice(columns.start // 2, columns.stop // 2))
            for ours, original in zip(result.chroma, frame.chroma, strict=True):
                _mix(ours[part], original[part], half)
        else:
            _mix(np.asarray(result)[rows, columns], np.asarray(frame)[rows, columns], cv2.merge([covered] * 3))

    def _region(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a frame that hold the mask, with even ends where the frame's sides are even."""
        x, y, across, down = cv2.boundingRect((self.cells > 0).astype(np.uint8))
        corners = np.array([[x + dx, y + dy, 0.0] for dx in (-1, across) for dy in (-1, down)])
        seen = self.view.to_frame(corners, CELLS)[:, :2]
        (left, top), (right, bottom) = np.floor(seen.min(0)).astype(int), np.ceil(seen.max(0)).astype(int) + 1
        left, top = max(int(left), 0) // 2 * 2, max(int(top), 0) // 2 * 2
        return slice(top, min(int(bottom + bottom % 2), height)), slice(left, min(int(right + right % 2), width))


def _mix(ours: np.ndarray, original: np.ndarray, weight: np.ndarray) -> None:
    """Moves 8-bit values towards the original in place, by weights from 0 to 1."""
    mixed = cv2.subtract(original.astype(np.float32), ours.astype(np.float32)) * weight + ours
    ours[:] = (mixed + 0.5).astype(np.uint8)


FindOcclusion: TypeAlias = Callable[[np.ndarray | PlanarFrame, np.ndarray, HeadPose], OcclusionMask | None]
"""Finds what covers a face with these (206, 3) points in a frame, BGR or planar; None if nothing does."""


class OcclusionFinder:
    """Finds what covers a face.

    Args:
        network: (1, SIZE, SIZE, 3) uint8 BGR → (1, CELLS, CELLS) probability that something covers the face.
    """

    def __init__(self, network: Network) -> None:
        self.network = network

    @classmethod
    def load(cls) -> OcclusionFinder:
        """Loads the bundled network.

        Raises:
            UsageError: the file is missing or damaged.
        """
        sources = (WEIGHTS, Path(__file__).with_name("model.py"))
        return cls(load_network("occlusion", sources, _bundled, [(1, SIZE, SIZE, 3)]))

    def __call__(self, frame: np.ndarray | PlanarFrame, points: np.ndarray, pose: HeadPose) -> OcclusionMask | None:
        """See `FindOcclusion`."""
        view = occlusion_view(pose)
        (probability,) = self.network(view.crop(frame, SIZE)[None])
        face, lips = (view.to_crop(points[rows], CELLS)[:, :2] for rows in (lower_face(), LIPS_OUTER))
        cells = covered_cells(probability[0], face, lips)
        return None if cells is None else OcclusionMask(view, cells)


def covered_cells(probability: np.ndarray, face: np.ndarray, lips: np.ndarray) -> np.ndarray | None:
    """The mask of the spots that cover the lower face; None if there are none.

    What lies beside the face, such as a tie, and the lips alone, if painted blue, are none of them, although the
    network may call them so.

    Args:
        probability: (CELLS, CELLS).
        face: (N, 2) points of the lower face, in cells.
        lips: (20, 2) outer lip ring, in cells.
    """
    low, high = SURE
    cells = np.clip((probability - low) / (high - low), 0, 1).astype(np.float32)
    if cells.sum() < MIN_CELLS:
        return None
    before = np.zeros((CELLS, CELLS), np.uint8)
    cv2.fillConvexPoly(before, cv2.convexHull(np.round(face).astype(np.int32)), 1)
    count, spots = cv2.connectedComponents((cells > 0.5).astype(np.uint8))
    size, seen = np.bincount(spots.ravel(), minlength=count), np.bincount(spots[before > 0], minlength=count)
    kept = (seen >= MIN_CELLS) & (seen >= MIN_SHARE * size) & ~_lipstick(spots, size, lips)
    kept[0] = False  # what is free
    if not kept.any():
        return None
    near = cv2.dilate(kept[spots].astype(np.uint8), np.ones((GROWTH, GROWTH), np.uint8))
    return cv2.dilate(cells * near, np.ones((GROWTH, GROWTH), np.uint8))


def _lipstick(spots: np.ndarray, size: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """(count,) whether each spot, with `size` cells, is all of the lips and nothing else."""
    mouth = cv2.fillPoly(np.zeros((CELLS, CELLS), np.uint8), [np.round(lips).astype(np.int32)], 1)
    near = cv2.dilate(mouth, np.ones((LIPS_GROWTH, LIPS_GROWTH), np.uint8))
    inside, filled = (np.bincount(spots[area > 0], minlength=len(size)) for area in (near, mouth))
    only: np.ndarray = (inside >= LIPSTICK[0] * size) & (filled >= LIPSTICK[1] * mouth.sum())
    return only


def _bundled() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from preprocessing.faces.occlusion.model import bundled_module

    return bundled_module()
