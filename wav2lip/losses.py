"""What a generated face costs, as a dict whose keys are the weights' and the log's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from syncnet.expert import Expert
from syncnet.loss import sync_loss


def mouth_weight(size: int, mask_row: int, mouth: float = 4.0) -> Tensor:
    """Weights of the pixels of a points crop: 0 above the mask, 1 below it, up to `mouth` on lips and chin.

    Returns:
        (1, 1, size, size), mean 1 over the masked rows.
    """
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    # The mouth lies at (48, 52) of 96, the chin below it.
    bump = torch.exp(-(((x - 0.5) / 0.2) ** 2) - ((y - 0.57) / 0.16) ** 2)
    weight = (1 + (mouth - 1) * bump) * (y >= mask_row / size)
    return (weight / weight[mask_row:].mean())[None, None]


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def generator_losses(
    picture: Tensor, target: Tensor, flow: Tensor, mix: Tensor, weight: Tensor, mask_row: int
) -> dict[str, Tensor]:  # fmt: skip
    """Reconstruction of the masked rows and the price of painting.

    Args:
        picture: (B, 3, S, S) generated, 0 to 1.
        target: (B, 3, S, S).
        flow: (B, 2, S, S), shares of the side.
        mix: (B, 1, S, S), how much of each pixel is painted instead of taken from the reference.
        weight: (1, 1, S, S) from `mouth_weight`.

    Returns:
        l1: weighted mean absolute difference. gradient: that of the pictures' differences between neighbours, which
        keeps edges. smooth: how unevenly neighbours flow. paint: mean of `mix`.
    """
    shown = slice(mask_row, None)
    edges = zip(_gradients(picture[:, :, shown]), _gradients(target[:, :, shown]), strict=True)
    return {
        "l1": ((picture - target).abs() * weight)[:, :, shown].mean(),
        "gradient": sum(((a - b).abs().mean() for a, b in edges), start=torch.zeros(())),
        "smooth": sum((g.abs().mean() for g in _gradients(flow[:, :, shown])), start=torch.zeros(())),
        "paint": mix[:, :, shown].mean(),
    }


def expert_loss(expert: Expert, pictures: Tensor, mel: Tensor, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """The frozen expert's sync loss on windows of five generated points crops.

    Args:
        pictures: (B, 3, 5, S, S), 0 to 1.
        mel: (B, 1, 80, 16), the sound of the five frames.
        shift: pixels of a crop of 96 right and down by which the expert's square is moved, so that the generator cannot
            learn patterns that fool the expert at one place only.
    """
    audio, face = expert.network(mel, expert.look(pictures, shift))
    return sync_loss(face, audio)


def total(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The weighted sum; a weight without a loss or a loss without a weight is our own mistake."""
    assert losses.keys() == weights.keys()
    return sum((weights[name] * loss for name, loss in losses.items()), start=torch.zeros(()))


def plain_l1(picture: Tensor, target: Tensor, mask_row: int) -> Tensor:
    """Mean absolute difference of the masked rows, the figure that the model card gives."""
    return F.l1_loss(picture[:, :, mask_row:], target[:, :, mask_row:])
