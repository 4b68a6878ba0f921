"""Content loss: how different two mouths look to the first layers of the sync expert."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syncnet.sync_expert import EXPERT, SyncExpert
from wav2lip.gan.critics import layer_outputs

LAYERS = 3  # of the face encoder: half, a quarter and an eighth of the resolution


class ContentLoss(nn.Module):
    """L1 of the features of a frozen sync expert (SRGAN, arXiv 1609.04802, equation 5, with our own network).

    The expert sees a mouth that stands still for its five frames. What it looks at is what makes lips readable.
    """

    def __init__(self, expert: Path = EXPERT) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SyncExpert.load(expert).network.face_encoder[:LAYERS].children())

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of (B, 3, H, W) BGR images in 0 to 1, layer by layer."""
        still = (images * 2 - 1).repeat(1, 5, 1, 1)
        return layer_outputs(self.layers, still.contiguous(memory_format=torch.channels_last))

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """The mean over layers, a scalar; 0 for equal images."""
        with torch.no_grad():
            wanted = self.features(target)
        return torch.stack([F.l1_loss(a, b) for a, b in zip(self.features(image), wanted, strict=True)]).mean()
