"""An expert that judges lip shapes instead of pictures: which shape belongs to which moment of the sound?

It is `SyncNet`'s idea (Chung and Zisserman, 2016) with N-way matching (Perfect Match, arXiv 1809.08001) on the few
numbers of a shape. It knows nothing of where features and shapes come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError

REACH = 7  # frames to either side that `offset` looks at
WINDOW = 5  # frames of shape that an embedding sees


@dataclass(frozen=True)
class ShapeExpertConfig:
    """The expert's shape.

    Attributes:
        features: Numbers in a row of speech features; two rows a frame.
        components: Numbers of a shape.
        width: Channels.
        dimension: Of the embeddings.
        dropout: Share that a training step goes without.
    """

    features: int = 288
    components: int = 16
    width: int = 128
    dimension: int = 64
    dropout: float = 0.3

    def __post_init__(self) -> None:
        for name in ("features", "components", "width", "dimension"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is a share below 1, not {self.dropout}")


class ShapeExpert(nn.Module):
    """Embeds speech features and shapes of the same frames on one sphere."""

    mean: Tensor
    deviation: Tensor
    shape_deviation: Tensor

    def __init__(self, config: ShapeExpertConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("deviation", torch.ones(config.features))
        self.register_buffer("shape_deviation", torch.ones(config.components))
        drop = config.dropout
        self.audio = nn.Sequential(
            nn.Dropout(drop), nn.Conv1d(config.features, width, 1), nn.GELU(),
            nn.Conv1d(width, width, 4, stride=2, padding=1), nn.GELU(), nn.Dropout(drop),
            nn.Conv1d(width, width, 5, padding=2), nn.GELU(), nn.Dropout(drop),
            nn.Conv1d(width, width, 5, padding=2), nn.GELU(), nn.Conv1d(width, config.dimension, 1),
        )  # fmt: skip
        self.shape = nn.Sequential(
            nn.Conv1d(config.components, width, WINDOW, padding=WINDOW // 2), nn.GELU(), nn.Dropout(drop / 2),
            nn.Conv1d(width, width, 1), nn.GELU(), nn.Dropout(drop / 2), nn.Conv1d(width, config.dimension, 1),
        )  # fmt: skip
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def normalise(self, rows: Tensor, deviations: Tensor) -> None:
        """Takes the features' mean and deviation from (N, D) rows, and the shapes' (K,) deviations."""
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0) + 1e-3)
        self.shape_deviation.copy_(deviations)

    def embed_audio(self, rows: Tensor) -> Tensor:
        """(B, 2 T, D) features → (B, T, E), of length one."""
        heard = ((rows - self.mean) / self.deviation).transpose(1, 2)
        return F.normalize(self.audio(heard).transpose(1, 2).float(), dim=-1)

    def embed_shape(self, shapes: Tensor) -> Tensor:
        """(B, T, K) coefficients → (B, T, E), of length one."""
        return F.normalize(self.shape((shapes / self.shape_deviation).transpose(1, 2)).transpose(1, 2).float(), dim=-1)


def shape_matching_loss(audio: Tensor, shape: Tensor, weight: Tensor, log_scale: Tensor) -> Tensor:
    """Which moment of the window does this shape belong to, and which shape this moment?

    The neighbours of the right moment are neither right nor wrong and do not take part.

    Args:
        audio, shape: (B, T, E) of length one.
        weight: (B, T) 0 to 1, how much each frame counts.
        log_scale: () logarithm of the factor of the cosines.

    Returns:
        () mean cross-entropy, both ways.
    """
    frames = audio.shape[1]
    place = torch.arange(frames, device=audio.device)
    beside = (place[:, None] - place[None, :]).abs() == 1
    scores = (log_scale.exp() * audio @ shape.transpose(1, 2)).masked_fill(beside, -1e4)
    target = place.expand(len(audio), -1)
    both = [F.cross_entropy(matrix, target, reduction="none") for matrix in (scores, scores.transpose(1, 2))]
    return ((both[0] + both[1]) / 2 * weight).sum() / (weight.sum() + 1)


def offset(audio: np.ndarray, shape: np.ndarray, counts: np.ndarray, reach: int = REACH) -> tuple[int, float]:
    """By how many frames the shapes come after their sound, as the expert hears it.

    Args:
        audio, shape: (T, E) embeddings of the same frames.
        counts: (T,) bool, the frames that are asked.

    Returns:
        The shift with the highest mean cosine, -reach to reach, and by how much it exceeds the median over shifts.

    Raises:
        UsageError: there are too few frames.
    """
    frames, curve = np.flatnonzero(counts), []
    for shift in range(-reach, reach + 1):
        here = frames[(frames + shift >= 0) & (frames + shift < len(shape))]
        if not len(here):
            raise UsageError(f"{len(frames)} frames are too few to find an offset of {reach}")
        curve.append(float((audio[here] * shape[here + shift]).sum(axis=1).mean()))
    best = int(np.argmax(curve))
    return best - reach, curve[best] - float(np.median(curve))
