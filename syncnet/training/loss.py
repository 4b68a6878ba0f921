"""Sync losses: the published cosine and BCE, a log loss for signed embeddings, and N-way matching."""

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
    """Mean of -log((1 + cos) / 2), () loss, for signed embeddings (SIDGAN, ICCV 2023)."""
    return -torch.log(((1 + sync_probability(video, speech)) / 2).clamp_min(1e-4)).mean()


def bce_loss(probability: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean of -y log P_sync - (1 - y) log(1 - P_sync), the published expert's training loss.

    Source: "A Lip Sync Expert Is All You Need" (2020), section 3.1, applied to its equation 1.

    Args:
        probability: (B,) P_sync, 0 to 1, clamped to eps and 1 - eps: rounding can push a cosine above 1.
        target: (B,) 1 where video and audio are of the same window, else 0.

    Returns:
        () loss; ln 2 when every probability is 0.5.
    """
    return F.binary_cross_entropy(probability.clamp(eps, 1 - eps), target)


def matching_loss(audio: Tensor, face: Tensor, scale: Tensor, batch_contrastive_weight: float = 0.25) -> Tensor:
    """N-way matching after Perfect Match (arXiv 1809.08001): symmetric cross-entropy over each clip's windows.

    The same loss over all windows of the batch is added with weight `batch_contrastive_weight`. Windows directly next
    to the target are neither positives nor negatives and are masked out.

    Args:
        audio: (C, W, D) L2-normalized embeddings of W consecutive windows from each of C clips.
        face: (C, W, D), the same for the mouths.
        scale: (), the factor on the cosines (inverse temperature).

    Returns:
        () loss.
    """
    clips, windows, _ = audio.shape
    position = torch.arange(windows, device=audio.device)
    neighbors = (position[:, None] - position[None, :]).abs() == 1
    own = (scale * audio @ face.transpose(1, 2)).masked_fill(neighbors, -torch.inf)
    every = scale * audio.flatten(0, 1) @ face.flatten(0, 1).T
    every = every.masked_fill(torch.block_diag(*[neighbors] * clips).bool(), -torch.inf)
    target = position.expand(clips, -1)
    within_clip = F.cross_entropy(own, target) + F.cross_entropy(own.transpose(1, 2), target)
    index = torch.arange(clips * windows, device=audio.device)
    within_batch = F.cross_entropy(every, index) + F.cross_entropy(every.T, index)
    return within_clip / 2 + batch_contrastive_weight * within_batch / 2
