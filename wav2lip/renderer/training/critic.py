"""The painter's critic: how real a mouth looks, and how well it matches the lips' shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wav2lip.gan.critics import LEAKY_SLOPE, Critic, layer_outputs

CONDITION = 3  # channels: opening, lips, painted region


class MouthCritic(Critic):
    """Scores mouth crops: patch logits, averaged over the painted region, so that copied skin does not dilute them.

    Without norms, so that gradient penalties apply.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = ((3 + CONDITION, width, 4, 2), (width, 2 * width, 4, 2), (2 * width, 4 * width, 4, 2))
        layers = [(*size, 1) for size in sizes] + [(4 * width, 4 * width, 3, 1, 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(*size), nn.LeakyReLU(LEAKY_SLOPE)) for size in layers
        )  # fmt: skip
        self.head = nn.Conv2d(4 * width, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # PyTorch's initialization shrinks the logits layer by layer
                nn.init.kaiming_normal_(module.weight, LEAKY_SLOPE)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type] # it has one
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # faster convolutions

    def logits_and_features(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Scores mouths.

        Args:
            images: (B, 3, H, W) BGR, 0 to 1.
            condition: (B, 3, H, W): masks of opening and lips, and the painted region.

        Returns:
            (B, 1) logits and the features of four layers.
        """
        assert condition is not None
        inputs = torch.cat([images, condition], 1) * 2 - 1
        features = layer_outputs(self.layers, inputs.contiguous(memory_format=torch.channels_last))
        logits = self.head(features[-1])
        weights = F.adaptive_avg_pool2d(condition[:, 2:], logits.shape[-2:]) + 1e-3
        return (logits * weights).sum((2, 3)) / weights.sum((2, 3)), features
