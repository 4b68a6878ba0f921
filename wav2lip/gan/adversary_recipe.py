"""Recipe of the adversary, construction of its critic, and the critic's view of the frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from preprocessing.errors import UsageError
from syncnet.data import WINDOW
from wav2lip.gan.autoencoder import AutoencoderCritic
from wav2lip.gan.critics import SIZE, ClipCritic, Critic, PatchCritic, VisualQualityCritic
from wav2lip.gan.objectives import Objective, objective
from wav2lip.gan.regularization import apply_spectral_norm

CRITICS = ("none", "released", "patch", "clip", "autoencoder")
REGIONS = ("masked", "mouth", "whole")
MOUTH = (0.27, 0.33, 0.46)  # left, top and side of the mouth square, as fractions of a points crop


class FrameLayout(Protocol):
    """Layout of the generator's frames, as its configuration has it.

    Attributes:
        size: side of the square frames in pixels.
        mask_row: first masked row.
    """

    @property
    def size(self) -> int: ...

    @property
    def mask_row(self) -> int: ...


@dataclass(frozen=True)
class AdversaryRecipe:
    """Critic and adversarial training.

    Attributes:
        critic: "released" is the published discriminator, "patch" a PatchGAN, "clip" sees five frames at once,
            "autoencoder" outputs energies; "none": no adversary.
        objective: Name of an objective in `wav2lip.gan.objectives`.
        region: Part of the crop that the critic sees: the masked rows, a square around the mouth, or all of it. The
            released critic takes the whole crop ("masked" or "whole") and uses its lower half.
        width: Channels of the first layer; not for the released critic.
        depth: Downsampling layers of the patch and clip critics.
        conditional: Whether the patch and clip critics also see the masked face.
        spectral: Apply spectral normalization to the critic.
        r1: Weight gamma of the R1 penalty; 0: no penalty.
        r1_every: Critic steps between R1 penalties, and the factor on the penalty.
        augment: Apply differentiable augmentation to the critic's inputs.
        unroll: Critic steps to unroll in the generator's loss.
        unroll_lr: Learning rate of the unrolled steps.
        lr: The critic's learning rate; null: the value of the objective's paper.
        critic_steps: Critic steps per generator step, on the same windows; null: the value of the objective's paper.
        start: Generator step at which adversarial training starts.
    """

    critic: Literal["none", "released", "patch", "clip", "autoencoder"] = "none"
    objective: str = "hinge"
    region: Literal["masked", "mouth", "whole"] = "masked"
    width: int = 32
    depth: int = 3
    conditional: bool = True
    spectral: bool = True
    r1: float = 0.0
    r1_every: int = 16
    augment: bool = True
    unroll: int = 0
    unroll_lr: float = 0.01
    lr: float | None = None
    critic_steps: int | None = None
    start: int = 0

    def __post_init__(self) -> None:
        for name, legal in {"critic": CRITICS, "region": REGIONS}.items():
            if (value := getattr(self, name)) not in legal:
                raise UsageError(f"the adversary's {name} must be one of {', '.join(legal)}, not {value!r}")
        least = {"width": 1, "depth": 1, "r1": 0, "r1_every": 1, "unroll": 0, "critic_steps": 1, "start": 0}
        for name, bound in least.items():
            if (value := getattr(self, name)) is not None and value < bound:
                raise UsageError(f"the adversary's {name} must be {bound} or more, not {value}")
        for name in ("lr", "unroll_lr"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UsageError(f"the adversary's {name} must be above 0, not {value}")
        adversarial_objective = objective(self.objective)  # rejects unknown names
        if self.critic != "none":
            self._check_critic(adversarial_objective)

    def _check_critic(self, adversarial_objective: Objective) -> None:
        if adversarial_objective.energies != (self.critic == "autoencoder"):
            kind = (
                "autoencoder, which outputs energies" if adversarial_objective.energies else "released, patch or clip"
            )
            raise UsageError(f"the objective {self.objective} needs the critic {kind}, not {self.critic!r}")
        if self.objective == "wgan" and self.spectral:
            raise UsageError("wgan clips the weights, which spectral norm would undo: set spectral to false")
        if self.critic == "released" and self.region == "mouth":
            raise UsageError(
                "the released critic uses the lower half of the crop: region must be masked or whole, not mouth"
            )


def build_critic(recipe: AdversaryRecipe, layout: FrameLayout) -> Critic:
    """Builds the recipe's critic for the given frame layout.

    Raises:
        UsageError: the recipe has no critic, or the region is too small for it.
    """
    critic: Critic
    if recipe.critic == "none":
        raise UsageError(f"the recipe has no critic; choose one of {', '.join(CRITICS[1:])}")
    if recipe.critic == "released":
        critic = VisualQualityCritic()
    elif recipe.critic == "patch":
        critic = PatchCritic(recipe.depth, recipe.width, recipe.conditional)
    elif recipe.critic == "clip":
        critic = ClipCritic(WINDOW, recipe.depth, recipe.width, recipe.conditional)
    else:
        critic = AutoencoderCritic(_square_side(recipe, layout), recipe.width)
    critic = apply_spectral_norm(critic) if recipe.spectral else critic
    images = torch.zeros(1, 3, WINDOW, layout.size, layout.size)
    inputs = critic_batch(critic_view(recipe, layout, images), recipe)
    with torch.no_grad():
        critic.eval()(inputs, inputs)  # raises if the region is too small
    return critic.train()


def _square_side(recipe: AdversaryRecipe, layout: FrameLayout) -> int:
    """The side of a square with about as many pixels as the region: a multiple of 8, at least 64."""
    height, width = _region(recipe.region, layout, torch.zeros(1, 1, 1, layout.size, layout.size)).shape[-2:]
    return max(64, 8 * round((height * width) ** 0.5 / 8))


def _region(region: str, layout: FrameLayout, images: Tensor) -> Tensor:
    if region == "whole":
        return images
    if region == "masked":
        return images[..., layout.mask_row :, :]
    left, top, side = (round(share * layout.size) for share in MOUTH)
    return images[..., top : top + side, left : left + side]


def critic_view(recipe: AdversaryRecipe, layout: FrameLayout, images: Tensor) -> Tensor:
    """Crops the critic's region, resized for critics with a fixed input size; differentiable.

    Args:
        recipe: the adversary's.
        layout: of the images.
        images: (B, 3, 5, S, S).

    Returns:
        (B, 3, 5, h, w).
    """
    if recipe.critic == "released":
        return _resized(images, SIZE)
    view = _region(recipe.region, layout, images)
    return _resized(view, _square_side(recipe, layout)) if recipe.critic == "autoencoder" else view


def _resized(windows: Tensor, side: int) -> Tensor:
    if windows.shape[-2:] == (side, side):
        return windows
    frames = windows.transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return frames.unflatten(0, (-1, windows.shape[2])).transpose(1, 2)


def critic_batch(windows: Tensor, recipe: AdversaryRecipe) -> Tensor:
    """Windows (B, 3, 5, h, w) for the clip critic, single frames (5 B, 3, h, w) for the others.

    The rows of the batch are then scored independently, which gradient penalties and R1 rely on.
    """
    return windows if recipe.critic == "clip" else windows.transpose(1, 2).flatten(0, 1)
