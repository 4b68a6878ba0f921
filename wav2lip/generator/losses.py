"""What a generated face costs, as a dict whose keys are the weights' and the log's.

The adversarial costs, which a critic names, are in `wav2lip.gan.adversary`.
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
from syncnet.loss import bce_loss, sync_loss, sync_probability
from syncnet.sync_expert import SyncExpert
from training.losses import loss_weight
from training.losses import total as total
from wav2lip.generator.model import GeneratorConfig, split_fields

SyncKind = Literal["log", "bce", "relative"]
OCTAVES = 3  # of the Laplacian pyramid, before what is left
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson's kernel


@dataclass(frozen=True)
class LossWeights:
    """What each loss counts. A loss whose weight is 0 is not computed.

    Attributes:
        l1: Mean absolute difference, more on the mouth.
        gradient: That of the differences between neighbouring pixels, which keeps edges.
        laplacian: That of each octave of the pictures.
        temporal: That of the changes from frame to frame.
        smooth: How unevenly neighbours flow, where the reference is warped.
        paint: How much is painted instead of warped.
        sync: What the expert hears amiss.
        adversarial: What the critic sees amiss.
        feature_matching: How differently the critic's layers answer to the generated and to the real picture.
        mouth: Times that a pixel on the lips counts in l1.
    """

    l1: float = 1.0
    gradient: float = 0.5
    laplacian: float = 0.0
    temporal: float = 0.0
    smooth: float = 0.02
    paint: float = 0.04
    sync: float = 0.03
    adversarial: float = 0.0
    feature_matching: float = 0.0
    mouth: float = 4.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= (value := getattr(self, field.name)) < float("inf"):
                raise UsageError(f"the weight {field.name} must be 0 or more, not {value}")
        if self.mouth < 1:
            raise UsageError(f"mouth, the times that a pixel on the lips counts, must be 1 or more, not {self.mouth}")
        if not self.l1 + self.gradient + self.laplacian:
            raise UsageError("one of the weights l1, gradient and laplacian must be above 0: they say what to generate")


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


def reconstruction_losses(
    picture: Tensor, target: Tensor, weight: Tensor, mask_row: int, weights: LossWeights
) -> dict[str, Tensor]:  # fmt: skip
    """How far the masked rows are from the target's: those of l1, gradient, laplacian, temporal that have a weight.

    All are means of absolute values, of an error of 0 to 1, so that an error of e everywhere has an l1 and a laplacian
    of e. They are linear in the pictures before the absolute value is taken, and so are computed on their difference.

    Args:
        picture: (5 B, 3, S, S) generated, 0 to 1; the five frames of a window follow each other.
        target: (5 B, 3, S, S).
        weight: (1, 1, S, S) from `mouth_weight`, for l1.
        mask_row: the first masked row.

    Returns:
        Scalars: l1, weighted by pixels. gradient, the mean over neighbours beside plus that over neighbours below.
        laplacian, the sum over the octaves of a Laplacian pyramid (after arXiv 1707.05776, equation 3). temporal,
        |(g' - g) - (t' - t)| of frames g and g' that follow each other and their targets: flicker.
    """
    error = (picture - target)[:, :, mask_row:]
    losses = {}
    if weights.l1:
        losses["l1"] = (error.abs() * weight[:, :, mask_row:]).mean()
    if weights.gradient:
        losses["gradient"] = _unevenness(error)
    if weights.laplacian:
        losses["laplacian"] = torch.stack([octave.abs().mean() for octave in _octaves(error)]).sum()
    if weights.temporal:
        losses["temporal"] = error.unflatten(0, (-1, WINDOW)).diff(dim=1).abs().mean()
    return losses


def painting_losses(outputs: Tensor, config: GeneratorConfig, weights: LossWeights) -> dict[str, Tensor]:
    """The price of a warping generator's fields in the masked rows: those of smooth and paint that have a weight.

    Args:
        outputs: (B, 6, S, S), what the generator returned.

    Returns:
        Scalars: smooth, the mean difference of the flow, in shares of the side, between neighbours. paint, the mean of
        the colour's weight, 0 to 1.
    """
    flow, _, mix = (field[:, :, config.mask_row :] for field in split_fields(outputs, config))
    losses = {}
    if weights.smooth:
        losses["smooth"] = _unevenness(flow)
    if weights.paint:
        losses["paint"] = mix.mean()
    return losses


def _unevenness(x: Tensor) -> Tensor:
    return x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()


def _octaves(x: Tensor) -> list[Tensor]:
    """The Laplacian pyramid (Burt and Adelson, 1983), finest first; the last is what is left. Its edges are repeated.

    Widened bilinearly instead of by the kernel, which costs less and leaves the pyramid as complete: the octaves,
    widened, add up to `x`.
    """
    octaves = []
    for _ in range(OCTAVES):
        smaller = _halved(x)
        octaves.append(x - F.interpolate(smaller, x.shape[-2:], mode="bilinear", align_corners=False))
        x = smaller
    return [*octaves, x]


def _halved(x: Tensor) -> Tensor:
    channels, kernel = x.shape[1], torch.tensor(BINOMIAL, dtype=x.dtype, device=x.device)
    square = (kernel[:, None] * kernel).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), square, stride=2, groups=channels)


def expert_loss(
    expert: SyncExpert, pictures: Tensor, mel: Tensor, shift: tuple[float, float] = (0, 0), kind: SyncKind = "log",
    silent: Tensor | None = None, real: Tensor | None = None, still: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """What the frozen expert, in eval mode, hears amiss in windows of five generated points crops.

    Args:
        pictures: (B, 3, 5, S, S), 0 to 1.
        mel: (B, 1, 80, 16), the sound of the five frames.
        shift: pixels of a crop of 96 right and down by which the expert's square is moved, so that the generator cannot
            learn patterns that fool the expert at one place only.
        kind: "log", -log((1 + cos) / 2) (SIDGAN, ICCV 2023). "bce", the published -log cos (arXiv 2008.10010, section
            3.2), which has no gradient where a signed expert's cosine is below 0. "relative", see `relative_loss`.
        silent: (B,) bool, windows that are left out: silence fits every mouth that rests.
        real: (B, 3, 5, S, S), the real windows, for "relative" only.
        still: (B, 3, 5, S, S), the reference windows, for "relative" only.

    Returns:
        Mean over the windows that are not silent, (); 0, which has a gradient of 0, where all are.
    """
    sound, face = expert.network(mel, expert.look(pictures, shift))
    with torch.autocast(pictures.device.type, enabled=False):
        face, sound = face.float(), sound.float()
        heard = torch.ones(len(face), dtype=torch.bool, device=face.device) if silent is None else ~silent
        if not heard.any():
            return 0 * face.sum()
        if kind == "log":
            return sync_loss(face[heard], sound[heard])
        cosine = sync_probability(face, sound)
        if kind == "bce":
            return bce_loss(cosine[heard], torch.ones_like(cosine[heard]))
    assert real is not None
    assert still is not None
    theirs, rest = (_cosine(expert, x, mel, shift)[heard] for x in (real, still))
    return relative_loss(cosine[heard], theirs, rest)


@torch.no_grad()
def _cosine(expert: SyncExpert, pictures: Tensor, mel: Tensor, shift: tuple[float, float]) -> Tensor:
    sound, face = expert.network(mel, expert.look(pictures, shift))
    return sync_probability(face.float(), sound.float())


def relative_loss(made: Tensor, real: Tensor, still: Tensor, eps: float = 0.01) -> Tensor:
    """The stabilised sync loss of arXiv 2307.09368: as far in sync as the real window, and no farther.

    -log(1 - (|x - y| + eps) / (|x - y| + |y - d| + eps)), with x, y, d the expert's cosines of the generated, the real
    and the reference window with the sound. Where the expert hardly tells the real window from the reference, it hardly
    pulls either. The argument of the logarithm is held at 1e-4 or more, where the two are the same to the expert.

    Args:
        made: (B,) x.
        real: (B,) y.
        still: (B,) d.

    Returns:
        Mean, ().
    """
    miss, span = (made - real).abs(), (real - still).abs()
    return -torch.log((span / (miss + span + eps)).clamp_min(1e-4)).mean()


def gradient_norms(
    losses: dict[str, Tensor], weights: LossWeights | Mapping[str, float], outputs: Tensor
) -> dict[str, float]:  # fmt: skip
    """How strongly each weighted loss pulls at the generator, so that none drowns another unseen.

    Args:
        losses: scalars; they are kept for the step's own backward pass.
        outputs: what the network returned and the losses were computed from. Fabric guards the very tensor that its
            module returns against other backward passes at mixed precision: take `outputs.view_as(outputs)` before the
            losses are computed.

    Returns:
        Euclidean norm of d(weight * loss) / d outputs by "gradient_norm/NAME"; 0 for a loss without a gradient.
    """
    norms = {}
    for name, loss in losses.items():
        norm, slope = 0.0, None
        if loss.requires_grad:
            (slope,) = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
        if slope is not None:
            norm = loss_weight(weights, name) * slope.float().norm().item()
        norms[f"gradient_norm/{name}"] = norm
    return norms


class SyncSwitch:
    """Keeps the sync loss off until the pictures have settled, then ramps it up; once on, it stays on.

    An expert that is asked about grey fog teaches nothing, and one that is asked too early is fooled with dots.

    The pictures have settled when the mean l1 of `patience` steps lies less than the share `fall` below that of the
    `patience` steps before.
    """

    def __init__(self, start: int | None = None, ramp: int = 200, fall: float = 0.03, patience: int = 250) -> None:
        """
        Args:
            start: the step from which it is on whatever the pictures are like; None: when they have settled.
            ramp: steps from off to the whole weight.

        Raises:
            UsageError: a number is out of range.
        """
        for name, value, least in (("start", start or 0, 0), ("ramp", ramp, 0), ("patience", patience, 1)):
            if value < least:
                raise UsageError(f"the sync loss' {name} must be {least} or more steps, not {value}")
        if not 0 < fall < 1:
            raise UsageError(f"the sync loss' fall is a share between 0 and 1, not {fall}")
        self.ramp, self.fall, self.patience = ramp, fall, patience
        self.on = start
        self._sum, self._count, self._before = 0.0, 0, float("inf")

    def update(self, step: int, l1: float) -> None:
        """Takes note of a step's l1, which must be the same in all processes: their mean."""
        if self.on is not None:
            return
        self._sum, self._count = self._sum + l1, self._count + 1
        if self._count < self.patience:
            return
        mean = self._sum / self._count
        if mean > (1 - self.fall) * self._before:
            self.on = step
        self._sum, self._count, self._before = 0.0, 0, mean

    def weight(self, step: int) -> float:
        """0 while off, then rising to 1 by equal steps."""
        if self.on is None or step < self.on:
            return 0.0
        return min(1.0, (step - self.on) / self.ramp) if self.ramp else 1.0

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, as plain numbers."""
        return {"on": self.on, "sum": self._sum, "count": self._count, "before": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.on = state["on"]
        self._sum, self._count, self._before = state["sum"], state["count"], state["before"]


def plain_l1(picture: Tensor, target: Tensor, mask_row: int) -> Tensor:
    """Mean absolute difference of the masked rows, the figure that the model card gives."""
    return F.l1_loss(picture[:, :, mask_row:], target[:, :, mask_row:])
