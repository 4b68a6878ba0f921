"""Architecture of the lip motion network, the frames that it needs, and how it closes lips; without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.errors import UsageError, require_at_least

STEM_KERNEL = 4  # kernel size of the stem in rows; its stride turns two rows into one frame
ROWS_PER_FRAME = 2  # feature rows per frame
CLOSED_ABOVE, OPEN_BELOW = 0.55, 0.25  # closure probability from which lips are fully closed, and up to which unchanged


@dataclass(frozen=True)
class MotionConfig:
    """Architecture of the network.

    Attributes:
        features: Size of a speech feature vector, 50 vectors per second.
        width: Hidden channels.
        blocks: Number of residual blocks.
        kernel: Kernel size of a block in frames; odd.
        components: Number of shape coefficients.
        dropout: Dropout rate of features and channels.
        lookahead: Future frames that a frame depends on; -1 for as many as past frames.
    """

    features: int = 1536
    width: int = 128
    blocks: int = 4
    kernel: int = 5
    components: int = 16
    dropout: float = 0.4
    lookahead: int = -1

    def __post_init__(self) -> None:
        require_at_least(self, features=1, width=1, blocks=1, components=1)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UsageError(f"kernel must be odd, not {self.kernel}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not -1 <= self.lookahead <= self.blocks * (self.kernel // 2):
            raise UsageError(f"lookahead must be from -1 to {self.blocks * (self.kernel // 2)}, not {self.lookahead}")

    @property
    def block_lookaheads(self) -> list[int]:
        """Future frames in each block's kernel; the first blocks use up the lookahead."""
        half = self.kernel // 2
        left = self.lookahead if self.lookahead >= 0 else self.blocks * half
        return [max(0, min(half, left - block * half)) for block in range(self.blocks)]

    @property
    def after(self) -> int:
        """Frames of context needed after the last output frame."""
        return sum(self.block_lookaheads)

    @property
    def before(self) -> int:
        """Frames of context needed before the first output frame."""
        return self.blocks * (self.kernel - 1) - self.after


def context_rows(rows: np.ndarray, first: int, count: int, config: MotionConfig) -> np.ndarray:
    """The rows needed to predict `count` frames from `first` on; beyond the recording, its end rows are repeated.

    Args:
        rows: (R, D), row j at j / 50 s.

    Returns:
        (2 (before + count + after) + 2, D).
    """
    start = ROWS_PER_FRAME * (first - config.before) - 1
    stop = ROWS_PER_FRAME * (first + count + config.after) + 1
    return rows[np.clip(np.arange(start, stop), 0, len(rows) - 1)]


def close_lips(gap: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Gap correction that closes the lips: fully at high closure probability, not at all at low probability.

    Args:
        gap: (T,) gap between the lips, negative where they are pressed together.
        probability: (T,) probability that they are closed.

    Returns:
        (T,) change of the gap, <= 0.
    """
    share = np.clip((probability - OPEN_BELOW) / (CLOSED_ABOVE - OPEN_BELOW), 0, 1)
    return -share * np.maximum(gap, 0)
