"""The critics: networks that say how real a picture looks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syncnet.model import IntPair

SIZE = 96  # side of the faces that the released critic was trained on, in pixels
SLOPE = 0.01  # of the leaky ReLUs, as released


class CriticBlock(nn.Module):
    """Convolution and leaky ReLU without a norm; `conv_block` is part of the released keys."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: IntPair = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv_block = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H', W')."""
        return F.leaky_relu(self.conv_block(x), SLOPE)


def _halving(in_channels: int, out_channels: int, kernel_size: int, stride: IntPair = 2) -> nn.Sequential:
    rest = CriticBlock(out_channels, out_channels, kernel_size)
    return nn.Sequential(CriticBlock(in_channels, out_channels, kernel_size, stride), rest)


def lower_halves(faces: Tensor) -> Tensor:
    """The lower half of each face, (N, 3, 48, 96), of (N, 3, 96, 96) or (B, 3, T, 96, 96).

    Windows are laid out time-major, as the original does: frame 0 of every item, then frame 1 of every item.

    Raises:
        ValueError: the faces have another shape.
    """
    if faces.ndim not in (4, 5) or faces.shape[1] != 3 or faces.shape[-2:] != (SIZE, SIZE):
        expected = f"(N, 3, {SIZE}, {SIZE}) or (B, 3, T, {SIZE}, {SIZE})"
        raise ValueError(f"the critic takes faces of shape {expected}, not {tuple(faces.shape)}")
    if faces.ndim == 5:
        faces = faces.permute(2, 0, 1, 3, 4).flatten(0, 1)
    return faces[:, :, SIZE // 2 :]


class VisualQualityCritic(nn.Module):
    """The released visual-quality discriminator's shape and state-dict keys (14,113,793 parameters).

    Source: "A Lip Sync Expert Is All You Need" (2020), section 3.3. It sees single frames and only their lower half.
    """

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder_blocks = nn.ModuleList(
            [
                nn.Sequential(CriticBlock(3, 32, 7)),
                _halving(32, 64, 5, stride=(1, 2)),  # the lower half is twice as wide as high
                _halving(64, 128, 5),
                _halving(128, 256, 5),
                _halving(256, 512, 3),
                _halving(512, 512, 3),
                nn.Sequential(CriticBlock(512, 512, 3, padding=0), CriticBlock(512, 512, 1)),
            ]
        )
        self.binary_pred = nn.Sequential(nn.Conv2d(512, 1, 1))

    def forward(self, faces: Tensor) -> Tensor:
        """How real each frame looks.

        Args:
            faces: whole faces, BGR, 0 to 1: (N, 3, 96, 96) or (B, 3, T, 96, 96).

        Returns:
            Logits, (N, 1) or time-major (T * B, 1): positive means real. Their sigmoid is the original's output.
        """
        x = lower_halves(faces)
        for block in self.face_encoder_blocks:
            x = block(x)
        return torch.flatten(self.binary_pred(x), 1)
