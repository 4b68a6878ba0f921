"""Generator losses, as dicts whose keys match the loss weights and the log.

Adversarial losses are in `wav2lip.gan.adversary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from preprocessing.errors import UsageError
from syncnet.data import WINDOW
from syncnet.sync_expert import SyncExpert
from syncnet.training.loss import bce_loss, sync_loss, sync_probability
from training.losses import loss_weight

SyncKind = Literal["log", "bce", "relative"]
PYRAMID_LEVELS = 3  # of the Laplacian pyramid, not counting the residual
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson's kernel


@dataclass(frozen=True)
class LossWeights:
    """Loss weights. A loss with weight 0 is not computed.

    Attributes:
        l1: L1, weighted towards the mouth.
        gradient: L1 of the image gradient, which preserves edges.
        laplacian: L1 on a Laplacian pyramid.
        temporal: L1 of the frame-to-frame change.
        sync: Sync loss of the frozen expert.
        adversarial: Adversarial loss.
        feature_matching: L1 between the critic's features of generated and real frames.
        mouth: Weight of a pixel on the lips in l1, relative to other pixels.
    """

    l1: float = 1.0
    gradient: float = 0.5
    laplacian: float = 0.0
    temporal: float = 0.0
    sync: float = 0.03
    adversarial: float = 0.0
    feature_matching: float = 0.0
    mouth: float = 4.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= (value := getattr(self, field.name)) < float("inf"):
                raise UsageError(f"the weight {field.name} must be 0 or more, not {value}")
        if self.mouth < 1:
            raise UsageError(f"mouth, the weight of a pixel on the lips, must be 1 or more, not {self.mouth}")
        if not self.l1 + self.gradient + self.laplacian:
            raise UsageError("at least one of the weights l1, gradient and laplacian must be above 0")


def mouth_weight(size: int, mask_row: int, mouth: float = 4.0) -> Tensor:
    """Pixel weights of a points crop: 0 above the mask row, 1 below it, up to `mouth` on lips and chin.

    Returns:
        (1, 1, size, size) with mean 1 over the masked rows.
    """
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    # The mouth lies at (48, 52) of 96, the chin below it.
    bump = torch.exp(-(((x - 0.5) / 0.2) ** 2) - ((y - 0.57) / 0.16) ** 2)
    weight = (1 + (mouth - 1) * bump) * (y >= mask_row / size)
    return (weight / weight[mask_row:].mean())[None, None]


def reconstruction_losses(
    generated: Tensor, target: Tensor, weight: Tensor, mask_row: int, weights: LossWeights
) -> dict[str, Tensor]:  # fmt: skip
    """Reconstruction losses on the masked rows: those of l1, gradient, laplacian and temporal with a weight above 0.

    All are means of absolute values; a uniform error of e gives an l1 and a laplacian of e. They are linear before the
    absolute value and therefore computed on the difference of the frames.

    Args:
        generated: (5 B, 3, S, S), 0 to 1; the five frames of each window are consecutive.
        target: (5 B, 3, S, S).
        weight: (1, 1, S, S) from `mouth_weight`, for l1.
        mask_row: the first masked row.
        weights: decides which losses are computed.

    Returns:
        Scalars. l1: weighted by pixel. gradient: mean absolute horizontal plus mean absolute vertical difference.
        laplacian: sum over the levels of a Laplacian pyramid (after arXiv 1707.05776, equation 3). temporal:
        |(g' - g) - (t' - t)| for consecutive frames g, g' and their targets t, t', which penalizes flicker.
    """
    error = (generated - target)[:, :, mask_row:]
    losses = {}
    if weights.l1:
        losses["l1"] = (error.abs() * weight[:, :, mask_row:]).mean()
    if weights.gradient:
        losses["gradient"] = _gradient_l1(error)
    if weights.laplacian:
        losses["laplacian"] = torch.stack([level.abs().mean() for level in _laplacian_pyramid(error)]).sum()
    if weights.temporal:
        losses["temporal"] = error.unflatten(0, (-1, WINDOW)).diff(dim=1).abs().mean()
    return losses


def _gradient_l1(x: Tensor) -> Tensor:
    return x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()


def _laplacian_pyramid(x: Tensor) -> list[Tensor]:
    """Laplacian pyramid (Burt and Adelson, 1983), finest level first, low-pass residual last; replicate padding.

    Upsampling is bilinear rather than by the kernel, which is cheaper and still exact: the upsampled levels add up to
    `x`.
    """
    levels = []
    for _ in range(PYRAMID_LEVELS):
        smaller = _downsample(x)
        levels.append(x - F.interpolate(smaller, x.shape[-2:], mode="bilinear", align_corners=False))
        x = smaller
    return [*levels, x]


def _downsample(x: Tensor) -> Tensor:
    channels, kernel = x.shape[1], torch.tensor(BINOMIAL, dtype=x.dtype, device=x.device)
    kernel_2d = (kernel[:, None] * kernel).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel_2d, stride=2, groups=channels)


def sync_expert_loss(
    expert: SyncExpert, generated: Tensor, mel: Tensor, shift: tuple[float, float] = (0, 0), kind: SyncKind = "log",
    silent: Tensor | None = None, real: Tensor | None = None, reference: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Sync loss of the frozen expert, in eval mode, on windows of five generated points crops.

    Args:
        expert: the sync expert.
        generated: (B, 3, 5, S, S), 0 to 1.
        mel: (B, 1, 80, 16), the audio of the five frames.
        shift: offset of the expert's region, right and down, in pixels of a 96-pixel crop; varying it keeps the
            generator from learning patterns that fool the expert at one position only.
        kind: "log": -log((1 + cos) / 2) (SIDGAN, ICCV 2023). "bce": the published -log cos (arXiv 2008.10010, section
            3.2), which has no gradient where a signed expert's cosine is below 0. "relative": see `relative_loss`.
        silent: (B,) bool, windows to exclude: silence matches any mouth at rest.
        real: (B, 3, 5, S, S), the real windows, for "relative" only.
        reference: (B, 3, 5, S, S), the reference windows, for "relative" only.

    Returns:
        Mean over the windows that are not silent, (); 0 with zero gradient if all are silent.
    """
    audio, face = expert.network(mel, expert.crop_input(generated, shift))
    with torch.autocast(generated.device.type, enabled=False):
        face, audio = face.float(), audio.float()
        audible = torch.ones(len(face), dtype=torch.bool, device=face.device) if silent is None else ~silent
        if not audible.any():
            return 0 * face.sum()
        if kind == "log":
            return sync_loss(face[audible], audio[audible])
        cosine = sync_probability(face, audio)
        if kind == "bce":
            return bce_loss(cosine[audible], torch.ones_like(cosine[audible]))
    assert real is not None
    assert reference is not None
    cos_real, cos_reference = (_cosine(expert, x, mel, shift)[audible] for x in (real, reference))
    return relative_loss(cosine[audible], cos_real, cos_reference)


@torch.no_grad()
def _cosine(expert: SyncExpert, generated: Tensor, mel: Tensor, shift: tuple[float, float]) -> Tensor:
    audio, face = expert.network(mel, expert.crop_input(generated, shift))
    return sync_probability(face.float(), audio.float())


def relative_loss(generated: Tensor, real: Tensor, reference: Tensor, eps: float = 0.01) -> Tensor:
    """The stabilized sync loss of arXiv 2307.09368: pulls the score towards that of the real window, not beyond it.

    -log(1 - (|x - y| + eps) / (|x - y| + |y - d| + eps)), with x, y, d the expert's cosines of the generated, the real
    and the reference window with the audio. Where the expert scores real and reference windows alike, the gradient is
    small. The logarithm's argument is clamped to at least 1e-4, for windows with equal scores.

    Args:
        generated: (B,) x.
        real: (B,) y.
        reference: (B,) d.

    Returns:
        Mean, ().
    """
    gap, span = (generated - real).abs(), (real - reference).abs()
    return -torch.log((span / (gap + span + eps)).clamp_min(1e-4)).mean()


def gradient_norms(
    losses: dict[str, Tensor], weights: LossWeights | Mapping[str, float], outputs: Tensor
) -> dict[str, float]:  # fmt: skip
    """Gradient norm of each weighted loss at the generator's output, to show when one loss dominates.

    Args:
        losses: scalars; their graph is retained for the step's own backward pass.
        weights: the loss weights.
        outputs: the network's output that the losses were computed from. At mixed precision Fabric guards the tensor
            its module returns against other backward passes: compute the losses from `outputs.view_as(outputs)`.

    Returns:
        Euclidean norm of d(weight * loss) / d outputs under "gradient_norm/NAME"; 0 for a loss without a gradient.
    """
    norms = {}
    for name, loss in losses.items():
        norm, gradient = 0.0, None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
        if gradient is not None:
            norm = loss_weight(weights, name) * gradient.float().norm().item()
        norms[f"gradient_norm/{name}"] = norm
    return norms


class SyncSwitch:
    """Keeps the sync loss off until reconstruction has converged, then ramps it up; once on, it stays on.

    On blurry frames the expert gives no useful gradient, and a sync loss that starts too early is minimized by painting
    adversarial dots.

    Reconstruction has converged when the mean l1 over `patience` steps is less than the fraction `fall` below that of
    the previous `patience` steps.
    """

    def __init__(self, start: int | None = None, ramp: int = 200, fall: float = 0.03, patience: int = 250) -> None:
        """
        Args:
            start: step at which to switch on regardless of convergence; None: on convergence.
            ramp: steps from zero to full weight.
            fall: fraction of l1, see above.
            patience: number of steps, see above.

        Raises:
            UsageError: an argument is out of range.
        """
        for name, value, least in (("start", start or 0, 0), ("ramp", ramp, 0), ("patience", patience, 1)):
            if value < least:
                raise UsageError(f"the sync loss's {name} must be {least} or more steps, not {value}")
        if not 0 < fall < 1:
            raise UsageError(f"the sync loss's fall must be between 0 and 1, not {fall}")
        self.ramp, self.fall, self.patience = ramp, fall, patience
        self.on = start
        self._sum, self._count, self._previous = 0.0, 0, float("inf")

    def update(self, step: int, l1: float) -> None:
        """Records a step's l1, which must be the mean over all processes."""
        if self.on is not None:
            return
        self._sum, self._count = self._sum + l1, self._count + 1
        if self._count < self.patience:
            return
        mean = self._sum / self._count
        if mean > (1 - self.fall) * self._previous:
            self.on = step
        self._sum, self._count, self._previous = 0.0, 0, mean

    def weight(self, step: int) -> float:
        """0 while off, then rising linearly to 1."""
        if self.on is None or step < self.on:
            return 0.0
        return min(1.0, (step - self.on) / self.ramp) if self.ramp else 1.0

    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers."""
        return {"on": self.on, "sum": self._sum, "count": self._count, "before": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state from a `state_dict`."""
        self.on = state["on"]
        self._sum, self._count, self._previous = state["sum"], state["count"], state["before"]


def masked_l1(generated: Tensor, target: Tensor, mask_row: int) -> Tensor:
    """L1 over the masked rows, unweighted, as reported in the model card."""
    return F.l1_loss(generated[:, :, mask_row:], target[:, :, mask_row:])
