"""Losses and their weights, keyed by the same names as the log."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def loss_weight(weights: Mapping[str, float] | object, name: str) -> float:
    """The weight of the loss `name`, a mapping key or an attribute."""
    return weights[name] if isinstance(weights, Mapping) else getattr(weights, name)


def total(losses: dict[str, Tensor], weights: Mapping[str, float] | object) -> Tensor:
    """The weighted sum of the losses, ()."""
    return sum((loss_weight(weights, name) * loss for name, loss in losses.items()), start=torch.zeros(()))
