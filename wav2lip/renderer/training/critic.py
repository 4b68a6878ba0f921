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
        projection: compare the masks with the last features by an inner product (Miyato and Koyama, arXiv 1802.05637)
            instead of feeding them in with the image.
        batch_deviation: show the last layer how much the batch's features deviate (Karras et al., arXiv 1710.10196,
            section 3), so that it sees when all mouths are alike; a batch must then be all real or all painted.
    """

    def __init__(self, width: int = 32, projection: bool = False, batch_deviation: bool = False) -> None:
        super().__init__()
        self.batch_deviation = batch_deviation
        channels = 3 if projection else 3 + CONDITION
        sizes = ((channels, width, 4, 2), (width, 2 * width, 4, 2), (2 * width, 4 * width, 4, 2))
        layers = [(*size, 1) for size in sizes] + [(4 * width, 4 * width, 3, 1, 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(*size), nn.LeakyReLU(LEAKY_SLOPE)) for size in layers
        )  # fmt: skip
        self.head = nn.Conv2d(4 * width + batch_deviation, 1, 3, padding=1)
        self.projection = nn.Conv2d(CONDITION, 4 * width, 1) if projection else None
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
        inputs = (images if self.projection else torch.cat([images, condition], 1)) * 2 - 1
        features = layer_outputs(self.layers, inputs.contiguous(memory_format=torch.channels_last))
        top = features[-1]
        masks = F.adaptive_avg_pool2d(condition, (top.shape[-2], top.shape[-1]))
        logits = self.head(with_deviation(top) if self.batch_deviation else top)
        if self.projection:
            logits = logits + (self.projection(masks) * top).mean(1, keepdim=True)
        weights = masks[:, 2:] + 1e-3
        return (logits * weights).sum((2, 3)) / weights.sum((2, 3)), features


def with_deviation(features: Tensor) -> Tensor:
    """(B, C, h, w) to (B, C + 1, h, w): the standard deviation over the batch, averaged, as one more channel."""
    deviation = (features.var(0, unbiased=False) + 1e-8).sqrt().mean()
    return torch.cat([features, deviation.expand(len(features), 1, *features.shape[2:])], 1)
