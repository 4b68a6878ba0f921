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
from preprocessing.faces.mesh import HeadPose

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights" / "occlusion.safetensors"
SIZE, CELLS = 112, 56  # sides of the network's input and output, pixels
SIDE = 112.0  # side of the view in units of the canonical face
CENTER = np.array([64.0, 94.0, 0.0])  # its center on the canonical face: a little above the mouth
SURE = (0.45, 0.7)  # probabilities at which a cell starts to count as covered, and at which it fully does
MIN_CELLS = 12  # of the mask; less is noise
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


FindOcclusion: TypeAlias = Callable[[np.ndarray, HeadPose], OcclusionMask | None]
"""Finds what covers a face in a frame, BGR or planar; None if nothing does."""


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

    def __call__(self, frame: np.ndarray, pose: HeadPose) -> OcclusionMask | None:
        """The mask of a face in a frame, BGR or planar; None if nothing covers it."""
        view = occlusion_view(pose)
        (probability,) = self.network(view.crop(frame, SIZE)[None])
        cells = covered_cells(probability[0])
        return None if cells is None else OcclusionMask(view, cells)


def covered_cells(probability: np.ndarray) -> np.ndarray | None:
    """A mask from (CELLS, CELLS) probabilities; None if hardly anything is covered."""
    low, high = SURE
    cells = np.clip((probability - low) / (high - low), 0, 1).astype(np.float32)
    if cells.sum() < MIN_CELLS:
        return None
    return cv2.dilate(cells, np.ones((GROWTH, GROWTH), np.uint8))


def _bundled() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from preprocessing.faces.occlusion.model import bundled_module

    return bundled_module()
