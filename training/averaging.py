"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves the averaged weights and buffers towards the network's, in place; integers are copied.

    Args:
        decay: share of the average that stays; less in the first steps, (1 + step) / (10 + step) at most.
        step: training steps done.
    """
    keep = min(decay, (1 + step) / (10 + step))
    theirs = network.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(theirs[name], 1 - keep)
        else:
            value.copy_(theirs[name])
