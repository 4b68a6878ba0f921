"""The lip motion network: speech features → coefficients of a `ShapeSpace` and lip closure."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wav2lip.lip_motion.motion_config import ROWS_PER_FRAME, STEM_KERNEL, MotionConfig


class Block(nn.Module):
    """Residual block of norm, convolution, GELU and linear layer; unpadded, so the output is shorter."""

    def __init__(self, width: int, kernel: int, right: int, dropout: float) -> None:
        super().__init__()
        self.left, self.right = kernel - 1 - right, right
        self.norm, self.convolution = nn.LayerNorm(width), nn.Conv1d(width, width, kernel)
        self.linear, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, C) → (B, T - kernel + 1, C)."""
        mixed = self.convolution(self.norm(frames).transpose(1, 2)).transpose(1, 2)
        own = frames[:, self.left : frames.shape[1] - self.right]
        return own + self.dropout(self.linear(F.gelu(mixed)))


class Tower(nn.Module):
    """Rows of speech features → `outputs` values per frame; needs context rows, since nothing is padded."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: MotionConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("deviation", torch.ones(config.features))
        self.linear = nn.Linear(config.features, config.width)
        self.halve = nn.Conv1d(config.width, config.width, STEM_KERNEL, stride=ROWS_PER_FRAME)
        self.blocks = nn.ModuleList(
            [Block(config.width, config.kernel, right, config.dropout) for right in config.block_lookaheads]
        )
        self.norm, self.head = nn.LayerNorm(config.width), nn.Linear(config.width, outputs)
        self.dropout = nn.Dropout(config.dropout)

    def normalize(self, rows: Tensor) -> None:
        """Sets the features' mean and standard deviation from (N, D) rows."""
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0) + 1e-3)

    def forward(self, rows: Tensor, style: Tensor | None = None) -> Tensor:
        """(B, 2 (before + N + after) + 2, D) → (B, N, outputs); rows start one before those of the first frame.

        `style`, (B, width), is added to the hidden channels.
        """
        frames = F.gelu(self.linear(self.dropout((rows - self.mean) / self.deviation)))
        frames = F.gelu(self.halve(frames.transpose(1, 2)).transpose(1, 2))
        if style is not None:
            frames = frames + style[:, None]
        for block in self.blocks:
            frames = block(frames)
        return self.head(self.norm(frames))


class LipMotionNet(nn.Module):
    """Speech features → coefficients and logits of closed lips, at 25 fps."""

    scale: Tensor

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = Tower(config, config.components + 1)
        self.register_buffer("scale", torch.ones(config.components))

    def forward(self, rows: Tensor, style: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 2 (before + N + after) + 2, D) → coefficients (B, N, K), logits (B, N).

        `style`, (B, width), is how a person of the training data articulates; None is an unknown person.
        """
        numbers = self.tower(rows, style).float()
        return numbers[..., :-1] * self.scale, numbers[..., -1]
