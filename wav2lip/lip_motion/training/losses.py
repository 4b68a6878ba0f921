"""Losses of the lip motion network; each has a weight of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from preprocessing.errors import UsageError
from syncnet.shape_expert import ShapeExpert, shape_matching_loss

CLOSED_WEIGHT = 1.5  # weight of closed frames relative to open ones
SILENT_WEIGHT = 0.25  # weight of frames without speech in the closure loss


@dataclass(frozen=True)
class MotionLossWeights:
    """Loss weights.

    Attributes:
        position: Squared error of the coefficients, summed over them.
        velocity: The same for their change from frame to frame.
        opening: Squared error of the lip gap, in units at gain 1.
        width: Squared error of the mouth width, in units at gain 1.
        closure: Cross-entropy of closed lips.
        sync: N-way matching of shape and audio by a frozen sync expert.
        correlation: 1 - Pearson correlation of opening and of width, per window.
    """

    position: float = 1.0
    velocity: float = 1.0
    opening: float = 0.0
    width: float = 20.0
    closure: float = 10.0
    sync: float = 30.0
    correlation: float = 20.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) >= 0:
                raise UsageError(f"weights.{item.name} must be 0 or more, not {getattr(self, item.name)}")


@dataclass(frozen=True)
class Axes:
    """Directions of mouth opening and width in coefficient space, (K,) each."""

    opening: Tensor
    width: Tensor


def motion_losses(
    predicted: Tensor,
    logits: Tensor,
    batch: Mapping[str, Tensor],
    axes: Axes,
    expert: ShapeExpert | None,
    features: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Unweighted losses by name.

    Args:
        predicted: (B, T, K) coefficients.
        logits: (B, T) logits of closed lips.
        batch: from `WindowSampler.batch`.
        axes: opening and width in the shape space.
        expert: frozen; None leaves `sync` out.
        features: (B, 2 T, D) speech features for the expert.
    """
    true, known = batch["coefficients"], batch["known"]
    error, count = predicted - true, known.sum() + 1
    both = known[:, 1:] * known[:, :-1]
    losses = {
        "position": (error.square().sum(-1) * known).sum() / count,
        "velocity": ((error[:, 1:] - error[:, :-1]).square().sum(-1) * both).sum() / count,
        "opening": ((error @ axes.opening).square() * known).sum() / count,
        "width": ((error @ axes.width).square() * known).sum() / count,
        "closure": closure_loss(logits, batch),
        "correlation": correlation_loss(predicted @ axes.opening, true @ axes.opening, known)
        + correlation_loss(predicted @ axes.width, true @ axes.width, known),
    }  # fmt: skip
    if expert is not None:
        with torch.no_grad():
            audio = expert.embed_audio(features)
        weight = known * batch["speech"]
        losses["sync"] = shape_matching_loss(audio, expert.embed_shape(predicted), weight, expert.log_scale)
    return losses


def closure_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of (B, T) logits of closed lips; silence weighs less, closed lips more."""
    weight = batch["known"] * (SILENT_WEIGHT + (1 - SILENT_WEIGHT) * batch["speech"])
    closed = torch.tensor(CLOSED_WEIGHT, device=logits.device)
    each = F.binary_cross_entropy_with_logits(logits, batch["closed"], pos_weight=closed, reduction="none")
    return (each * weight).sum() / (batch["known"].sum() + 1)


def correlation_loss(predicted: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """1 - Pearson correlation of (B, T) curves over frames with `known` 1, averaged over the B windows."""
    count = known.sum(1, keepdim=True).clamp_min(1)
    ours, theirs = ((curve - (curve * known).sum(1, keepdim=True) / count) * known for curve in (predicted, true))
    size = ours.square().sum(1) * theirs.square().sum(1)
    return 1 - ((ours * theirs).sum(1) / (size + 1e-4).sqrt()).mean()
