"""The occlusion network: a small U-Net from a crop of the lower face to a mask of what covers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError
from preprocessing.faces.occlusion.mask import SIDE, SIZE, WEIGHTS
from training.checkpoint import Checkpoint

KIND = "occlusion"
CROP = {"kind": "lower face", "size": SIZE, "units": SIDE}


@dataclass(frozen=True)
class OcclusionConfig:
    """Architecture.

    Attributes:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the input's resolution.
    """

    widths: tuple[int, ...] = (12, 24, 40, 56)

    def __post_init__(self) -> None:
        if len(self.widths) != 4 or min(self.widths) < 1:
            raise UsageError(f"widths must be four numbers of 1 or more, not {self.widths}")


class ConvBlock(nn.Sequential):
    """A 3x3 convolution, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )  # fmt: skip


class OcclusionNet(nn.Module):
    """Crops → logits of the mask, at half the resolution."""

    def __init__(self, config: OcclusionConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OcclusionConfig()
        first, second, third, last = config.widths
        self.stem = ConvBlock(3, first, 2)
        self.down1 = nn.Sequential(ConvBlock(first, second, 2), ConvBlock(second, second))
        self.down2 = nn.Sequential(ConvBlock(second, third, 2), ConvBlock(third, third))
        self.down3 = nn.Sequential(ConvBlock(third, last, 2), ConvBlock(last, last), ConvBlock(last, last))
        self.up3, self.join2 = nn.Conv2d(last, third, 1), ConvBlock(third, third)
        self.up2, self.join1 = nn.Conv2d(third, second, 1), ConvBlock(second, second)
        self.up1, self.join0 = nn.Conv2d(second, first, 1), ConvBlock(first, first)
        self.head = nn.Conv2d(first, 1, 1)
        nn.init.constant_(self.head.bias, -2.0)  # type: ignore[arg-type] # most cells are free

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 3, S, S) BGR from 0 to 1 → (B, S / 2, S / 2) logits."""
        half = self.stem(crops * 2 - 1)
        quarter = self.down1(half)
        eighth = self.down2(quarter)
        eighth = self.join2(eighth + F.interpolate(self.up3(self.down3(eighth)), scale_factor=2.0))
        quarter = self.join1(quarter + F.interpolate(self.up2(eighth), scale_factor=2.0))
        half = self.join0(half + F.interpolate(self.up1(quarter), scale_factor=2.0))
        return self.head(half)[:, 0]


class CropOcclusion(nn.Module):
    """The network for inference: (1, S, S, 3) uint8 BGR → (1, S / 2, S / 2) probabilities."""

    def __init__(self, network: OcclusionNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        return torch.sigmoid(self.network(crops.permute(0, 3, 1, 2).float() / 255))


def load_occlusion(path: Path = WEIGHTS) -> OcclusionNet:
    """Loads a checkpoint for inference.

    Raises:
        UsageError: the file is missing, damaged, or of another network or crop.
    """
    checkpoint = Checkpoint.load(path, KIND)
    if checkpoint.crop != CROP:
        raise UsageError(f"{path} sees crops {checkpoint.crop}, not {CROP}")
    network = OcclusionNet(OcclusionConfig(tuple(checkpoint.config["widths"])))
    network.load_state_dict(checkpoint.weights)
    return network.eval().requires_grad_(False)


def bundled_module() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The bundled network for uint8 crops, and an example crop, for `load_network`."""
    return CropOcclusion(load_occlusion()).eval(), (torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8),)
