"""Architecture settings of the landmark networks, and the coordinates of their input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.views import MOUTH_CENTER, MOUTH_SIDE
from preprocessing.faces.mesh import MESH_INDICES, canonical_face, lower_face

PARTS = ("face", "mouth")


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a landmark network.

    Attributes:
        part: Input region: "face" predicts all points, "mouth" those of the lower face.
        size: Side of the square input in pixels.
        widths: Channels of the stem and of each stage; each stage halves the resolution.
        depths: Residual blocks of each stage.
        squeeze: Channels before the regression head.
        hidden: Hidden units of the regression head.
    """

    part: str = "face"
    size: int = 80
    widths: tuple[int, ...] = (16, 32, 48, 64)
    depths: tuple[int, ...] = (1, 2, 2)
    squeeze: int = 24
    hidden: int = 128

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise UsageError(f"part must be one of {', '.join(PARTS)}, not {self.part!r}")
        if len(self.depths) != len(self.widths) - 1:
            raise UsageError(f"{len(self.widths)} widths need {len(self.widths) - 1} depths, not {len(self.depths)}")
        if self.size % (1 << len(self.widths)):
            raise UsageError(f"size {self.size} cannot be halved {len(self.widths)} times")

    def rows(self) -> np.ndarray:
        """Indices of the 206 points that the network predicts."""
        return np.arange(len(MESH_INDICES)) if self.part == "face" else mouth_rows()


def network_config(values: dict[str, Any]) -> NetworkConfig:
    """The configuration of a network from its checkpoint."""
    return NetworkConfig(**values | {name: tuple(values[name]) for name in ("widths", "depths")})


def mouth_rows() -> np.ndarray:
    """Indices of the lower-face points inside the mouth view; the sides of the jaw are outside."""
    rows = lower_face()
    away = np.abs(canonical_face()[rows] - MOUTH_CENTER)[:, :2].max(-1)
    return rows[away < MOUTH_SIDE / 2]


def to_normalized(points: np.ndarray, size: int) -> np.ndarray:
    """(..., 3) pixels of a crop → -1 to 1 across it."""
    return (points - _middle(size)) / (size / 2)


def to_pixels(shares: np.ndarray, size: int) -> np.ndarray:
    """Inverse of `to_normalized`."""
    return shares * (size / 2) + _middle(size)


def _middle(size: int) -> np.ndarray:
    return np.array([(size - 1) / 2, (size - 1) / 2, 0.0])
