"""The two landmark networks: one for the whole face, one for mouth and chin at a higher resolution."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing.faces.landmarks.network_config import NetworkConfig
from preprocessing.faces.mesh import canonical_face

LEAK = 0.1  # slope of the leaky ReLUs without batch norm, where plain ReLU left nine tenths of the hidden units dead


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


class CropNetwork(nn.Module):
    """A landmark network for inference: (1, S, S, 3) uint8 BGR → points (1, P, 3) and presence (1,), 0 to 1."""

    def __init__(self, network: LandmarkNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        points, logits = self.network(crops.permute(0, 3, 1, 2).float() / 255)
        return points, torch.sigmoid(logits)


def mirror_rows() -> np.ndarray:
    """(206,) index of each point's mirror image: the nearest point to its reflection on the canonical face."""
    face = canonical_face()
    middle = face[:, 0].mean()
    mirrored = face * [-1, 1, 1] + [2 * middle, 0, 0]
    return np.linalg.norm(mirrored[:, None] - face[None], axis=-1).argmin(1)
