"""The network behind published FID scores: Inception v3 as released for TensorFlow in 2015; weights not included.

The architecture is that of Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (arXiv
1512.00567), with torchvision's layer names. The released graph differs in two ways, and so does its PyTorch port,
pt_inception-2015-12-05-6726825d.pth, which is loaded here: average pooling excludes the padding, and the last block
uses max pooling instead of average pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError
from training.safe_pickle import read_pickle, to_float32, weight_mismatches

SIDE = 299  # input resolution in pixels
BATCH = 16  # images per forward pass
FEATURES = 2048
CLASSIFIERS = ("fc.", "AuxLogits.")  # unused: the features are taken before them
COUNTERS = "num_batches_tracked"  # batch norm buffers that the file lacks and inference does not need

Kernel = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H', W')."""
        return F.relu(self.bn(self.conv(x)))


def avg_pool(x: Tensor) -> Tensor:
    """3x3 average pooling with stride 1, padding excluded."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    """3x3 max pooling with stride 1."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class InceptionA(nn.Module):
    """Figure 5 of the paper with a 5x5 branch, on the 35x35 grid."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(channels, 64, 1)
        self.branch5x5_1 = Conv(channels, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(channels, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, 224 + pooled, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(avg_pool(x))], 1)


class InceptionB(nn.Module):
    """Figure 10: reduces the 35x35 grid to 17x17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(channels, 384, 3, 2)
        self.branch3x3dbl_1 = Conv(channels, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, 480 + channels, H', W')."""
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """Figure 6: 7x7 convolutions as 1x7 and 7x1, on the 17x17 grid."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        across, down = ((1, 7), (0, 3)), ((7, 1), (3, 0))

        def conv(name: str, before: int, after: int, way: tuple[tuple[int, int], tuple[int, int]]) -> None:
            self.add_module(name, Conv(before, after, way[0], padding=way[1]))

        self.branch1x1 = Conv(channels, 192, 1)
        self.branch7x7_1 = Conv(channels, inner, 1)
        conv("branch7x7_2", inner, inner, across)
        conv("branch7x7_3", inner, 192, down)
        self.branch7x7dbl_1 = Conv(channels, inner, 1)
        for number, way in enumerate((down, across, down), 2):
            conv(f"branch7x7dbl_{number}", inner, inner, way)
        conv("branch7x7dbl_5", inner, 192, across)
        self.branch_pool = Conv(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, 768, H, W)."""
        single_, double = self._chain("branch7x7", 3, x), self._chain("branch7x7dbl", 5, x)
        return torch.cat([self.branch1x1(x), single_, double, self.branch_pool(avg_pool(x))], 1)

    def _chain(self, name: str, length: int, x: Tensor) -> Tensor:
        for number in range(1, length + 1):
            x = self.get_submodule(f"{name}_{number}")(x)
        return x


class InceptionD(nn.Module):
    """Reduces the 17x17 grid to 8x8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(channels, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, 2)
        self.branch7x7x3_1 = Conv(channels, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, 512 + channels, H', W')."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """Figure 7: 3x3 convolutions as 1x3 and 3x1 in parallel, on the 8x8 grid; `last` selects max pooling."""

    def __init__(self, channels: int, last: bool = False) -> None:
        super().__init__()
        self.pool = max_pool if last else avg_pool
        self.branch1x1 = Conv(channels, 320, 1)
        self.branch3x3_1 = Conv(channels, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Conv(channels, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Conv(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, 2048, H, W)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parallel = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parallel += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *parallel, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """Inception v3 up to its last pooling layer; 21.8 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = InceptionA(192, 32), InceptionA(256, 64), InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b, self.Mixed_6c = InceptionC(768, 128), InceptionC(768, 160)
        self.Mixed_6d, self.Mixed_6e = InceptionC(768, 160), InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b, self.Mixed_7c = InceptionE(1280), InceptionE(2048, last=True)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) RGB in [0, 1], any size, to (B, 2048)."""
        x = 2 * F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))


@dataclass
class InceptionEncoder:
    """The network with user-supplied weights, in eval mode."""

    network: Inception

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> InceptionEncoder:
        """Load pt_inception-2015-12-05-6726825d.pth or another state dict of this network.

        Raises:
            UsageError: the file holds something else, or weights are missing or have another shape.
        """
        weights = to_float32(read_pickle(path)[0])
        weights = {key: weight for key, weight in weights.items() if not key.startswith(CLASSIFIERS)}
        with torch.device("meta"):
            network = Inception()
        weights |= {key: torch.tensor(0) for key in network.state_dict() if key.endswith(COUNTERS)}
        if wrong := weight_mismatches(weights, Inception):
            raise UsageError(f"{path} does not match the FID Inception v3: {wrong}")
        network.load_state_dict(weights, assign=True)
        return cls(network.to(device).eval().requires_grad_(False))

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> np.ndarray:
        """Map (N, H, W, 3) uint8 BGR, N >= 1, to (N, 2048) float32 features for `evaluation.metrics.frechet`."""
        device = self.network.Conv2d_1a_3x3.conv.weight.device
        outputs = []
        for first in range(0, len(images), BATCH):
            rgb = np.ascontiguousarray(images[first : first + BATCH, :, :, ::-1])
            batch = torch.from_numpy(rgb).to(device).permute(0, 3, 1, 2).float() / 255
            outputs.append(self.network(batch).cpu().numpy())
        return np.concatenate(outputs)
