"""Losses of the painter; each has a weight of the same name in `PainterLossWeights`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wav2lip.renderer.painter import Painted

RIM_WEIGHT = 0.4  # of the region around the opening, relative to the opening
COARSE = 4  # pixels averaged for the coarse loss


def finished(painted: Painted, planes: dict[str, Tensor]) -> Tensor:
    """(B, 3, H, W): the painter's image inside its region, the target around it."""
    return planes["target"] + planes["region"] * (painted.image - planes["target"])


def softened(images: Tensor, share: float) -> Tensor:
    """(B, 3, H, W) images mixed with themselves at half the resolution; `share` of the full one, 1 changes nothing."""
    if share >= 1:
        return images
    half = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0)
    return half + share * (images - half)


def condition(planes: dict[str, Tensor]) -> Tensor:
    """(B, 3, H, W): the critic's masks."""
    return torch.cat([planes["inner"], planes["lips"], planes["region"]], 1)


def _mean(errors: Tensor, weights: Tensor) -> Tensor:
    """(B,): the weighted mean of (B, 3, H, W) errors for each sample."""
    summed = (errors.mean(1, keepdim=True) * weights).sum((1, 2, 3))
    return summed / (weights.sum((1, 2, 3)) + 16.0)


def reconstruction_losses(painted: Painted, planes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses pixels, coarse, edges and paint, scalars."""
    target = planes["target"]
    weights = planes["region"] * (RIM_WEIGHT + (1 - RIM_WEIGHT) * planes["inner"])
    image = finished(painted, planes)
    losses = {"pixels": _mean((image - target).abs(), weights).mean(), "edges": _edges(image, target, weights).mean()}
    reduced = [F.avg_pool2d(x, COARSE) for x in (image, target, weights)]
    losses["coarse"] = _mean((reduced[0] - reduced[1]).abs(), reduced[2] * COARSE**2).mean()
    losses["paint"] = _mean((painted.paint - target).abs(), weights).mean()
    return losses


def _edges(image: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    across = _mean((image.diff(dim=3) - target.diff(dim=3)).abs(), weights[..., 1:])
    down = _mean((image.diff(dim=2) - target.diff(dim=2)).abs(), weights[:, :, 1:])
    return across + down
