"""What keeps a critic from learning a small data set by heart: spectral norm, R1, differentiable augmentation."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from preprocessing.errors import UsageError
from wav2lip.gan.critics import Critic


def spectrally_normalised(critic: Critic) -> Critic:
    """The same critic, in place, with every weight divided by its largest singular value (arXiv 1802.05957).

    The value is that of the kernels as a matrix (out, in * k * k), followed by one step of power iteration at each
    forward pass in training mode. The names of the weights in the state dict change.
    """
    for module in list(critic.modules()):
        layer = isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d))
        if layer and not parametrize.is_parametrized(module, "weight"):
            spectral_norm(module)
    return critic


def r1_penalty(critic: nn.Module, real: Tensor, condition: Tensor | None = None, gamma: float = 10.0) -> Tensor:
    """R1: gamma / 2 * E |dD(x)/dx|^2 on real pictures x (arXiv 1801.04406, equation 9).

    D(x) is the mean of a picture's logits where the critic gives a map. To be paid every k-th step only, it is to be
    multiplied by k (lazy regularisation, arXiv 1912.04958). The critic must have no batch norm.

    Args:
        critic: pictures and their condition to logits, one row for each picture (for each frame, where it takes
            windows apart).
        real: real pictures, (N, 3, S, S) or (B, 3, T, S, S).
        condition: as the critic takes it; not differentiated by.

    Returns:
        A scalar that can be differentiated by the critic's weights.
    """
    real = real.detach().requires_grad_()
    logits = critic(real, condition)
    (gradient,) = torch.autograd.grad(logits.flatten(1).mean(1).sum(), real, create_graph=True)
    return gamma / 2 * gradient.square().sum() / len(logits)


@dataclass(frozen=True)
class DrawnAugmentation:
    """How one batch was augmented: numbers of one window each, (B,), of -1 to 1 (or 0 to 1: `across`, `along`)."""

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    right: Tensor
    down: Tensor
    across: Tensor
    along: Tensor


@dataclass(frozen=True)
class DifferentiableAugmentation:
    """Augmentation between the pictures and the critic that lets the generator's gradient through (arXiv 2006.10738).

    What the critic sees of real and generated pictures is augmented alike, so that it is their difference that it
    learns and the generator does not copy the augmentation. 0 switches a kind off.

    Attributes:
        brightness: the most that is added to all pixels, either way, of a range of 1.
        saturation: how far the colours' distance from their grey is scaled: by 1 - saturation to 1 + saturation.
        contrast: how far the distance from mid-grey is scaled. (The paper takes the picture's own mean, which would
            treat the same pixel differently in the real, the generated and the masked picture and in each frame.)
        translation: the farthest that pictures are moved, as a share of their sides; black follows from the edge.
        cutout: sides of a black rectangle as shares of the picture's; its centre may lie anywhere.
    """

    brightness: float = 0.25
    saturation: float = 1.0
    contrast: float = 0.5
    translation: float = 0.125
    cutout: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= (value := getattr(self, field.name)) <= 1:
                raise UsageError(f"{field.name} must be from 0 to 1, not {value}")

    def draw(self, count: int, generator: torch.Generator | None = None) -> DrawnAugmentation:
        """A disguise for `count` windows, drawn on the CPU, so that a seed means the same on every device."""
        draws = torch.rand(len(fields(DrawnAugmentation)), count, generator=generator)
        return DrawnAugmentation(*(draws[:5] * 2 - 1), *draws[5:])

    def apply(self, pictures: Tensor, disguise: DrawnAugmentation) -> Tensor:
        """Augments pictures (B, 3, H, W) or windows (B, 3, T, H, W), 0 to 1; all frames of a window alike.

        The same disguise on real, generated and masked pictures is the same map of colours and places. Values may
        leave 0 to 1: clamped pixels would have no gradient.

        Raises:
            UsageError: the disguise was drawn for another number of windows.
        """
        if len(disguise.right) != len(pictures):
            raise UsageError(f"the disguise is for {len(disguise.right)} windows, not {len(pictures)}")
        x = pictures if pictures.ndim == 5 else pictures[:, :, None]
        x = self._cut_out(self._move(self._colour(x, disguise), disguise), disguise)
        return x if pictures.ndim == 5 else x[:, :, 0]

    def _colour(self, x: Tensor, disguise: DrawnAugmentation) -> Tensor:
        def drawn(values: Tensor) -> Tensor:
            return values.to(x)[:, None, None, None, None]

        x = x + self.brightness * drawn(disguise.brightness)
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (1 + self.saturation * drawn(disguise.saturation))
        return 0.5 + (x - 0.5) * (1 + self.contrast * drawn(disguise.contrast))

    def _move(self, x: Tensor, disguise: DrawnAugmentation) -> Tensor:
        for axis, share in ((3, disguise.down), (4, disguise.right)):
            side = x.shape[axis]
            steps = (share.to(x.device) * self.translation * side).round().long()
            source = torch.arange(side, device=x.device) - steps[:, None]  # (B, side)
            shape = [len(x), 1, 1, 1, 1]
            shape[axis] = side
            inside = ((source >= 0) & (source < side)).view(shape)
            x = x.gather(axis, source.clamp(0, side - 1).view(shape).expand_as(x)) * inside
        return x

    def _cut_out(self, x: Tensor, disguise: DrawnAugmentation) -> Tensor:
        hidden = torch.ones((), dtype=torch.bool, device=x.device)
        for axis, share in ((3, disguise.along), (4, disguise.across)):
            side = x.shape[axis]
            shape = [len(x), 1, 1, 1, 1]
            shape[axis] = side
            centre = share.to(x.device)[:, None] * side
            away = (torch.arange(side, device=x.device) + 0.5 - centre).abs()
            hidden = hidden & (away < self.cutout * side / 2).view(shape)
        return x * ~hidden
