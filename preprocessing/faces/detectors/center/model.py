"""The detector's network: a heat map of face centers at stride 8, with a box and five points in every cell.

Centers as points follow Zhou et al., "Objects as Points" (2019); the blocks are MobileNet's (Howard et al., 2017).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.faces.detectors.center.network_config import VALUES, CenterConfig

PRIOR = 0.01  # heat of every cell before training
KERNELS = (3, 3, 5, 5)  # of the stages at strides 4 to 32: wide where it costs little


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU; the batch norm is folded into the convolution when it is compiled."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class SeparableBlock(nn.Module):
    """A depthwise and a pointwise convolution, with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(inputs, inputs, kernel, stride, inputs), convolution(inputs, outputs, 1))
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H / stride, W / stride)."""
        return self.body(x) + x if self.same else self.body(x)


class CenterNet(nn.Module):
    """Pictures → heat logits and values of every cell."""

    def __init__(self, config: CenterConfig) -> None:
        super().__init__()
        self.config, widths = config, config.widths
        self.stem = convolution(3, widths[0], 3, 2)
        self.stages = nn.ModuleList()
        for inputs, outputs, depth, kernel in zip(widths, widths[1:], config.depths, KERNELS, strict=False):
            more = (SeparableBlock(outputs, outputs, 1, kernel) for _ in range(depth - 1))
            self.stages.append(nn.Sequential(SeparableBlock(inputs, outputs, 2, kernel), *more))
        self.lateral = nn.ModuleList(convolution(width, config.neck, 1) for width in widths[2:])
        self.fused = nn.ModuleList(SeparableBlock(config.neck, config.neck) for _ in range(3))
        self.heat, self.values = nn.Conv2d(config.neck, 1, 1), nn.Conv2d(config.neck, VALUES, 1)
        nn.init.constant_(self.heat.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) BGR from 0 to 1, sides multiples of 32 → (B, h, w) logits and (B, VALUES, h, w)."""
        x, kept = self.stem(pictures * 2 - 1), []
        for stage in self.stages:
            x = stage(x)
            kept.append(x)
        found = self.lateral[2](kept[3])
        for place in (1, 0):
            found = F.interpolate(found, scale_factor=2.0, mode="nearest") + self.lateral[place](kept[place + 1])
            found = self.fused[place](found)
        found = self.fused[2](found)
        return self.heat(found).squeeze(1), self.values(found)


class FrameNetwork(nn.Module):
    """The network for inference: (1, H, W, 3) uint8 BGR → heat (1, h, w), 0 to 1 and 0 beside a peak; values."""

    def __init__(self, network: CenterNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits, values = self.network(frames.permute(0, 3, 1, 2).float() / 255)
        heat = torch.sigmoid(logits)
        peak = F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0]
        return heat * (heat >= peak), values
