"""What "in sync" is worth: the published expert's cosine and its loss, and the N-way form that ours learns by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sync_probability(video: Tensor, speech: Tensor, eps: float = 1e-8) -> Tensor:
    """P_sync = v.s / max(|v| |s|, eps), equation 1 of "A Lip Sync Expert Is All You Need" (2020).

    Args:
        video: (B, D).
        speech: (B, D).

    Returns:
        (B,), 0 to 1 for embeddings that end in a ReLU, -1 to 1 for signed ones.
    """
    return F.cosine_similarity(video, speech, dim=1, eps=eps)


def sync_loss(video: Tensor, speech: Tensor) -> Tensor:
    """Mean of -log((1 + cos) / 2), which is defined for signed embeddings (SIDGAN, ICCV 2023)."""
    return -torch.log(((1 + sync_probability(video, speech)) / 2).clamp_min(1e-4)).mean()


def bce_loss(probability: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean of -y log P_sync - (1 - y) log(1 - P_sync): how the published expert was trained.

    "A Lip Sync Expert Is All You Need" (2020), section 3.1, on its equation 1.

    Args:
        probability: (B,) P_sync, 0 to 1. Rounding may take a cosine beyond 1, where the logarithm has no value; it is
            held within eps and 1 - eps.
        target: (B,) 1 for picture and sound of the same window, 0 for others.

    Returns:
        () loss; ln 2 for one who says 0.5 to everything.
    """
    return F.binary_cross_entropy(probability.clamp(eps, 1 - eps), target)


def matching_loss(audio: Tensor, face: Tensor, scale: Tensor, batch_contrastive_weight: float = 0.25) -> Tensor:
    """Which of a clip's windows does this sound belong to, and which of all windows?

    N-way matching after Perfect Match (arXiv 1809.08001): cross-entropy over the clip's own windows, both ways,
    plus `batch_contrastive_weight` times the same over the whole batch. The neighbours of the right window are neither right
    nor wrong and do not take part.

    Args:
        audio: (C, W, D) L2-normalised embeddings of W windows in order from each of C clips.
        face: (C, W, D).
        scale: () by which the cosines are multiplied.

    Returns:
        () loss.
    """
    clips, windows, _ = audio.shape
    place = torch.arange(windows, device=audio.device)
    neighbours = (place[:, None] - place[None, :]).abs() == 1
    own = (scale * audio @ face.transpose(1, 2)).masked_fill(neighbours, -torch.inf)
    every = scale * audio.flatten(0, 1) @ face.flatten(0, 1).T
    every = every.masked_fill(torch.block_diag(*[neighbours] * clips).bool(), -torch.inf)
    target = place.expand(clips, -1)
    near = F.cross_entropy(own, target) + F.cross_entropy(own.transpose(1, 2), target)
    index = torch.arange(clips * windows, device=audio.device)
    far = F.cross_entropy(every, index) + F.cross_entropy(every.T, index)
    return near / 2 + batch_contrastive_weight * far / 2
