"""Losses and their weights: two collections with the same keys, which are the keys of the log as well."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def loss_weight(weights: Mapping[str, float] | object, name: str) -> float:
    """The weight of the loss `name`, from a mapping or from an attribute of that name."""
    return weights[name] if isinstance(weights, Mapping) else getattr(weights, name)


def total(losses: dict[str, Tensor], weights: Mapping[str, float] | object) -> Tensor:
    """The weighted sum, ()."""
    return sum((loss_weight(weights, name) * loss for name, loss in losses.items()), start=torch.zeros(()))
