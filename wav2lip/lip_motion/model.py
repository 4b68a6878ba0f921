"""The network that hears lip shapes: speech features → coefficients of a `ShapeSpace` and closure of the lips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError

STEM = 4  # rows that the stem sees; it makes one frame of two rows
ROWS = 2  # a frame
SURE, UNSURE = 0.55, 0.25  # probability of closure from which on the lips are shut, and below which they are left


@dataclass(frozen=True)
class MotionConfig:
    """The network's shape.

    Attributes:
        features: Numbers in a row of the speech encoder, 50 rows a second.
        width: Channels.
        blocks: Residual blocks.
        kernel: Frames that a block sees; odd.
        components: Coefficients of a shape.
        dropout: Share of features and channels that a training step goes without.
        lookahead: Frames after its own that a frame depends on; -1 for as many as before it.
    """

    features: int = 288
    width: int = 128
    blocks: int = 4
    kernel: int = 5
    components: int = 16
    dropout: float = 0.3
    lookahead: int = -1

    def __post_init__(self) -> None:
        for name in ("features", "width", "blocks", "components"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UsageError(f"kernel must be odd, not {self.kernel}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is a share below 1, not {self.dropout}")
        if not -1 <= self.lookahead <= self.blocks * (self.kernel // 2):
            raise UsageError(f"lookahead must be -1 or up to {self.blocks * (self.kernel // 2)}, not {self.lookahead}")

    @property
    def rights(self) -> list[int]:
        """Frames after its own that each block sees; the first blocks have them."""
        half = self.kernel // 2
        left = self.lookahead if self.lookahead >= 0 else self.blocks * half
        return [max(0, min(half, left - block * half)) for block in range(self.blocks)]

    @property
    def after(self) -> int:
        """Frames of context after the last frame wanted."""
        return sum(self.rights)

    @property
    def before(self) -> int:
        """Frames of context before the first."""
        return self.blocks * (self.kernel - 1) - self.after


class Block(nn.Module):
    """Norm, convolution, GELU, linear, beside the input; nothing is padded, so the result is shorter."""

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
    """Rows of speech features → `outputs` numbers for each frame; its context is given, never padded."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: MotionConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("deviation", torch.ones(config.features))
        self.linear = nn.Linear(config.features, config.width)
        self.halve = nn.Conv1d(config.width, config.width, STEM, stride=ROWS)
        self.blocks = nn.ModuleList(
            [Block(config.width, config.kernel, right, config.dropout) for right in config.rights]
        )
        self.norm, self.head = nn.LayerNorm(config.width), nn.Linear(config.width, outputs)
        self.dropout = nn.Dropout(config.dropout)

    def normalise(self, rows: Tensor) -> None:
        """Takes mean and deviation of the features from (N, D) rows."""
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0) + 1e-3)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, 2 (before + N + after) + 2, D) → (B, N, outputs); the rows begin one before the first frame's own."""
        frames = F.gelu(self.linear(self.dropout((rows - self.mean) / self.deviation)))
        frames = F.gelu(self.halve(frames.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            frames = block(frames)
        return self.head(self.norm(frames))


class LipMotionNet(nn.Module):
    """Speech features → coefficients and the logit of closed lips, 25 frames a second."""

    scale: Tensor

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = Tower(config, config.components + 1)
        self.register_buffer("scale", torch.ones(config.components))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2 (before + N + after) + 2, D) → coefficients (B, N, K), logits (B, N)."""
        numbers = self.tower(rows).float()
        return numbers[..., :-1] * self.scale, numbers[..., -1]


def rows_around(rows: np.ndarray, first: int, count: int, config: MotionConfig) -> np.ndarray:
    """The rows that the network needs for `count` frames from `first` on; beyond the ends the outermost is repeated.

    Args:
        rows: (R, D), row j of second j / 50.

    Returns:
        (2 (before + count + after) + 2, D).
    """
    start = ROWS * (first - config.before) - 1
    stop = ROWS * (first + count + config.after) + 1
    return rows[np.clip(np.arange(start, stop), 0, len(rows) - 1)]


def close_lips(gap: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """How far the lips are to be brought together: to nothing where closure is sure, not at all where it is not.

    Args:
        gap: (T,) between the lips, negative where they are pressed together.
        probability: (T,) that they are closed.

    Returns:
        (T,) <= 0, to be added to the gap.
    """
    share = np.clip((probability - UNSURE) / (SURE - UNSURE), 0, 1)
    return -share * np.maximum(gap, 0)
