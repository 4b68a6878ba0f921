"""A sync expert for lip shapes instead of images: matches shape coefficients with speech features.

SyncNet (Chung and Zisserman, 2016) with N-way matching (Perfect Match, arXiv 1809.08001), applied to coefficients.
It is independent of how features and shapes are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError, require_at_least

REACH = 7  # largest shift in frames that `offset` searches
WINDOW = 5  # frames in the receptive field of a shape embedding


@dataclass(frozen=True)
class ShapeExpertConfig:
    """The expert's architecture.

    Attributes:
        features: Size of a speech feature vector; two vectors per frame.
        components: Number of shape coefficients.
        width: Hidden channels.
        dimension: Size of the embeddings.
        dropout: Dropout rate.
    """

    features: int
    components: int
    width: int = 128
    dimension: int = 64
    dropout: float = 0.3

    def __post_init__(self) -> None:
        require_at_least(self, features=1, components=1, width=1, dimension=1)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, not {self.dropout}")


class ShapeExpert(nn.Module):
    """Embeds speech features and lip shapes into one space, L2-normalized."""

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

    def normalize(self, rows: Tensor, deviations: Tensor) -> None:
        """Sets input normalization: the features' mean and std from (N, D) rows, and the shapes' (K,) stds."""
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0) + 1e-3)
        self.shape_deviation.copy_(deviations)

    def embed_audio(self, rows: Tensor) -> Tensor:
        """(B, 2 T, D) features to (B, T, E) unit embeddings."""
        normalized = ((rows - self.mean) / self.deviation).transpose(1, 2)
        return F.normalize(self.audio(normalized).transpose(1, 2).float(), dim=-1)

    def embed_shape(self, shapes: Tensor) -> Tensor:
        """(B, T, K) coefficients to (B, T, E) unit embeddings."""
        return F.normalize(self.shape((shapes / self.shape_deviation).transpose(1, 2)).transpose(1, 2).float(), dim=-1)


def shape_matching_loss(audio: Tensor, shape: Tensor, weight: Tensor, log_scale: Tensor) -> Tensor:
    """N-way matching of shapes and audio over the frames of a window; adjacent frames are masked out.

    Args:
        audio, shape: (B, T, E) unit embeddings.
        weight: (B, T) 0 to 1, the weight of each frame.
        log_scale: () logarithm of the factor on the cosines.

    Returns:
        () symmetric cross-entropy, averaged by weight.
    """
    frames = audio.shape[1]
    position = torch.arange(frames, device=audio.device)
    neighbors = (position[:, None] - position[None, :]).abs() == 1
    scores = (log_scale.exp() * audio @ shape.transpose(1, 2)).masked_fill(neighbors, -1e4)
    target = position.expand(len(audio), -1)
    both = [F.cross_entropy(matrix, target, reduction="none") for matrix in (scores, scores.transpose(1, 2))]
    return ((both[0] + both[1]) / 2 * weight).sum() / (weight.sum() + 1)


def offset(audio: np.ndarray, shape: np.ndarray, counts: np.ndarray, reach: int = REACH) -> tuple[int, float]:
    """Measures by how many frames the shapes lag behind the audio.

    Args:
        audio, shape: (T, E) embeddings of the same frames.
        counts: (T,) bool, the frames to use.
        reach: largest shift in frames.

    Returns:
        The shift with the highest mean cosine, -reach to reach, and its margin over the median of all shifts.

    Raises:
        UsageError: there are too few frames.
    """
    frames, curve = np.flatnonzero(counts), []
    for shift in range(-reach, reach + 1):
        valid = frames[(frames + shift >= 0) & (frames + shift < len(shape))]
        if not len(valid):
            raise UsageError(f"{len(frames)} frames are too few to search offsets up to {reach}")
        curve.append(float((audio[valid] * shape[valid + shift]).sum(axis=1).mean()))
    best = int(np.argmax(curve))
    return best - reach, curve[best] - float(np.median(curve))
