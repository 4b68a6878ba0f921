"""Critic regularization for small datasets: spectral norm, R1 penalty, differentiable augmentation."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from preprocessing.errors import UsageError
from wav2lip.gan.critics import Critic


def apply_spectral_norm(critic: Critic) -> Critic:
    """Applies spectral normalization to every layer, in place (arXiv 1802.05957); returns the critic.

    Each weight, as a matrix (out, in * k * k), is divided by its largest singular value, tracked with one step of power
    iteration per forward pass in training mode. State-dict keys of the weights change.
    """
    for module in list(critic.modules()):
        layer = isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d))
        if layer and not parametrize.is_parametrized(module, "weight"):
            spectral_norm(module)
    return critic


def r1_penalty(critic: nn.Module, real: Tensor, condition: Tensor | None = None, gamma: float = 10.0) -> Tensor:
    """R1: gamma / 2 * E |dD(x)/dx|^2 on real images x (arXiv 1801.04406, equation 9).

    D(x) is the mean over an image's logits. When applied only every k-th step, multiply it by k (lazy regularization,
    arXiv 1912.04958). The critic must not use batch norm.

    Args:
        critic: maps images and their condition to logits, one row per image (per frame if it flattens windows).
        real: real images, (N, 3, S, S) or (B, 3, T, S, S).
        condition: the critic's condition; not differentiated.
        gamma: weight of the penalty.

    Returns:
        A scalar, differentiable with respect to the critic's weights.
    """
    real = real.detach().requires_grad_()
    logits = critic(real, condition)
    (gradient,) = torch.autograd.grad(logits.flatten(1).mean(1).sum(), real, create_graph=True)
    return gamma / 2 * gradient.square().sum() / len(logits)


@dataclass(frozen=True)
class AugmentationParams:
    """Random parameters for a batch, (B,) each, one per window: -1 to 1, or 0 to 1 for `cutout_x` and `cutout_y`."""

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    right: Tensor
    down: Tensor
    cutout_x: Tensor
    cutout_y: Tensor


@dataclass(frozen=True)
class DifferentiableAugmentation:
    """Differentiable augmentation (DiffAugment) of the critic's inputs (arXiv 2006.10738).

    Real and generated images get the same augmentation, so that the generator does not learn to reproduce it. A value
    of 0 disables that kind of augmentation.

    Attributes:
        brightness: largest value added to or subtracted from all pixels, whose range is 1.
        saturation: the distance of colors from their gray is scaled by 1 - saturation to 1 + saturation.
        contrast: the distance from mid-gray is scaled by 1 - contrast to 1 + contrast. (The paper uses the image's
            mean, which would treat the same pixel differently in real, generated and masked images and in each frame.)
        translation: largest shift as a fraction of the side; the uncovered area is black.
        cutout: sides of a black rectangle as fractions of the image's sides; its center may lie anywhere.
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

    def draw(self, count: int, generator: torch.Generator | None = None) -> AugmentationParams:
        """Draws parameters for `count` windows, on the CPU, so that a seed gives the same result on every device."""
        draws = torch.rand(len(fields(AugmentationParams)), count, generator=generator)
        return AugmentationParams(*(draws[:5] * 2 - 1), *draws[5:])

    def apply(self, images: Tensor, params: AugmentationParams) -> Tensor:
        """Augments images (B, 3, H, W) or windows (B, 3, T, H, W), 0 to 1; all frames of a window the same way.

        With the same parameters, real, generated and masked images undergo the same transformation. Values may leave
        0 to 1: clamped pixels would have no gradient.

        Raises:
            UsageError: the parameters were drawn for a different number of windows.
        """
        if len(params.right) != len(images):
            raise UsageError(f"the augmentation was drawn for {len(params.right)} windows, not {len(images)}")
        x = images if images.ndim == 5 else images[:, :, None]
        x = self._cutout(self._translate(self._jitter_color(x, params), params), params)
        return x if images.ndim == 5 else x[:, :, 0]

    def _jitter_color(self, x: Tensor, params: AugmentationParams) -> Tensor:
        def expand(values: Tensor) -> Tensor:
            return values.to(x)[:, None, None, None, None]

        x = x + self.brightness * expand(params.brightness)
        gray = x.mean(1, keepdim=True)
        x = gray + (x - gray) * (1 + self.saturation * expand(params.saturation))
        return 0.5 + (x - 0.5) * (1 + self.contrast * expand(params.contrast))

    def _translate(self, x: Tensor, params: AugmentationParams) -> Tensor:
        for axis, position in ((3, params.down), (4, params.right)):
            side = x.shape[axis]
            shift = (position.to(x.device) * self.translation * side).round().long()
            source = torch.arange(side, device=x.device) - shift[:, None]  # (B, side)
            shape = [len(x), 1, 1, 1, 1]
            shape[axis] = side
            inside = ((source >= 0) & (source < side)).view(shape)
            x = x.gather(axis, source.clamp(0, side - 1).view(shape).expand_as(x)) * inside
        return x

    def _cutout(self, x: Tensor, params: AugmentationParams) -> Tensor:
        inside = torch.ones((), dtype=torch.bool, device=x.device)
        for axis, position in ((3, params.cutout_y), (4, params.cutout_x)):
            side = x.shape[axis]
            shape = [len(x), 1, 1, 1, 1]
            shape[axis] = side
            center = position.to(x.device)[:, None] * side
            distance = (torch.arange(side, device=x.device) + 0.5 - center).abs()
            inside = inside & (distance < self.cutout * side / 2).view(shape)
        return x * ~inside
