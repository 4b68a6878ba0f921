"""The two landmark networks: one for the whole face, one for mouth and chin at a higher resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.views import MOUTH_CENTER, MOUTH_SIDE
from preprocessing.faces.mesh import MESH_INDICES, canonical_face, lower_face

PARTS = ("face", "mouth")
LEAK = 0.1  # slope of the leaky ReLUs without batch norm, where plain ReLU left nine tenths of the hidden units dead


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


class LandmarkResidualBlock(nn.Module):
    """Two 3x3 convolutions with a residual shortcut (He et al., "Deep residual learning", CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
            nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class LandmarkNet(nn.Module):
    """Crops → points and presence logit.

    Two linear layers regress the points: at this resolution and budget, direct regression is as accurate as heat maps
    and faster.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config, widths = config, config.widths
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, 2, 2), nn.LeakyReLU(LEAK, inplace=True)]
        for inputs, outputs, depth in zip(widths, widths[1:], config.depths, strict=False):
            layers += [
                LandmarkResidualBlock(inputs if k == 0 else outputs, outputs, 2 if k == 0 else 1) for k in range(depth)
            ]
        layers += [nn.Conv2d(widths[-1], config.squeeze, 1), nn.LeakyReLU(LEAK, inplace=True), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        cells = (config.size >> len(widths)) ** 2
        self.hidden = nn.Sequential(nn.Linear(config.squeeze * cells, config.hidden), nn.LeakyReLU(LEAK, inplace=True))
        self.points = nn.Linear(config.hidden, 3 * len(config.rows()))
        self.presence = nn.Linear(config.hidden, 1)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) BGR from 0 to 1 → points (B, P, 3), -1 to 1 across the crop, depth to scale; logits (B,)."""
        hidden = self.hidden(self.features(crops * 2 - 1))
        return self.points(hidden).unflatten(-1, (-1, 3)), self.presence(hidden).squeeze(-1)

    @torch.no_grad()
    def init_output(self, points: Tensor) -> None:
        """Initializes the output to the mean points (P, 3)."""
        self.points.bias.copy_(points.flatten())
        self.points.weight.mul_(0.1)


def to_normalized(points: np.ndarray, size: int) -> np.ndarray:
    """(..., 3) pixels of a crop → -1 to 1 across it."""
    return (points - _middle(size)) / (size / 2)


def to_pixels(shares: np.ndarray, size: int) -> np.ndarray:
    """Inverse of `to_normalized`."""
    return shares * (size / 2) + _middle(size)


def _middle(size: int) -> np.ndarray:
    return np.array([(size - 1) / 2, (size - 1) / 2, 0.0])


def mirror_rows() -> np.ndarray:
    """(206,) index of each point's mirror image: the nearest point to its reflection on the canonical face."""
    face = canonical_face()
    middle = face[:, 0].mean()
    mirrored = face * [-1, 1, 1] + [2 * middle, 0, 0]
    return np.linalg.norm(mirrored[:, None] - face[None], axis=-1).argmin(1)
