"""Architecture settings of the face detector, and the coordinates of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.errors import UsageError

STRIDE = 8  # pixels per cell of the output
DEEPEST = 32  # pixels per cell of the deepest stage: sides of the input are multiples of it
VALUES = 14  # per cell: shift of the center and log size, x and y each, then five points, x and y each
UNIT = 32.0  # pixels: the face whose log size is 0


@dataclass(frozen=True)
class CenterConfig:
    """Architecture of the detector.

    Attributes:
        widths: Channels of the stages at strides 2, 4, 8, 16 and 32.
        depths: Depthwise-separable blocks of the stages from stride 4 on.
        neck: Channels of the fused features at stride 8.
        side: The longer side, in pixels, to which larger frames are reduced before detection.
    """

    widths: tuple[int, ...] = (12, 24, 48, 80, 112)
    depths: tuple[int, ...] = (1, 2, 4, 3)
    neck: int = 48
    side: int = 448

    def __post_init__(self) -> None:
        if len(self.widths) != 5 or len(self.depths) != 4:
            raise UsageError(f"5 widths and 4 depths are needed, not {len(self.widths)} and {len(self.depths)}")
        if self.side < DEEPEST or self.side % DEEPEST:
            raise UsageError(f"side must be a multiple of {DEEPEST}, not {self.side}")


def center_config(values: dict[str, Any]) -> CenterConfig:
    """The configuration in a checkpoint."""
    return CenterConfig(**values | {name: tuple(values[name]) for name in ("widths", "depths")})


def decode_cells(cells: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (K, 4) x1 y1 x2 y2 and points (K, 5, 2), pixels of the input, of some cells of the output.

    Args:
        cells: (K, 2) x and y.
        values: (K, VALUES); shifts and points are in units of the face's size.
    """
    values = values.astype(np.float64)
    size = UNIT * np.exp(np.clip(values[:, 2:4], -4, 4))
    center = (cells + 0.5) * STRIDE + values[:, :2] * size
    points = center[:, None] + values[:, 4:].reshape(-1, 5, 2) * size[:, None]
    return np.concatenate([center - size / 2, center + size / 2], 1), points


def encode_faces(cells: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The inverse of `decode_cells`: (K, VALUES)."""
    size, center = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    shift = (center - (cells + 0.5) * STRIDE) / size
    return np.concatenate([shift, np.log(size / UNIT), ((points - center[:, None]) / size[:, None]).reshape(-1, 10)], 1)
