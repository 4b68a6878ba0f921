"""Which adversary the generator has: the recipe of a critic, the critic, and what it sees of the pictures."""

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
from wav2lip.gan.regularisation import spectrally_normalised

CRITICS = ("none", "released", "patch", "clip", "autoencoder")
REGIONS = ("masked", "mouth", "whole")
MOUTH = (0.27, 0.33, 0.46)  # left, top and side of the square on the mouth, as shares of a points crop


class PictureLayout(Protocol):
    """What a critic needs to know of the generator's pictures; its configuration has both.

    Attributes:
        size: side of the square pictures, pixels.
        mask_row: first row that the generator paints.
    """

    @property
    def size(self) -> int: ...

    @property
    def mask_row(self) -> int: ...


@dataclass(frozen=True)
class AdversaryRecipe:
    """Which critic there is, and how it is trained.

    Attributes:
        critic: "released" is the published one, "patch" a PatchGAN, "clip" sees five frames at once, "autoencoder"
            gives energies; "none": the generator has no adversary.
        objective: Its name in `wav2lip.gan.objectives`.
        region: What the critic sees of the crop: the masked rows, a square on the mouth, or all of it. The released
            critic cuts the lower half out of the whole crop by itself, as "masked" or "whole".
        width: Channels of the first layer; not of the released critic.
        depth: Halvings of the patch and the clip critic.
        conditional: Whether the patch and the clip critic see the masked face as well.
        spectral: Whether the critic's weights are normalised spectrally.
        r1: Weight gamma of the R1 penalty; 0 for none.
        r1_every: Steps of the critic from one R1 penalty to the next, which counts as many times.
        augment: Whether the critic sees pictures differentiably augmented.
        unroll: Steps of the critic that the generator foresees.
        unroll_lr: Learning rate of these steps.
        lr: The critic's learning rate; null: the objective's paper's.
        critic_steps: Of the critic for one of the generator, on the same windows; null: the objective's paper's.
        start: Step of the generator from which the adversary takes part.
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
        aim = objective(self.objective)  # refuses unknown names
        if self.critic != "none":
            self._require_a_pair(aim)

    def _require_a_pair(self, aim: Objective) -> None:
        if aim.energies != (self.critic == "autoencoder"):
            kind = "the autoencoder, which gives energies" if aim.energies else "released, patch or clip"
            raise UsageError(f"the objective {self.objective} asks for the critic {kind}, not {self.critic!r}")
        if self.objective == "wgan" and self.spectral:
            raise UsageError("wgan clips the weights, which spectral norm would scale up again: set spectral to false")
        if self.critic == "released" and self.region == "mouth":
            raise UsageError(
                "the released critic sees the lower half of the crop: region is masked or whole, not mouth"
            )


def build_critic(recipe: AdversaryRecipe, layout: PictureLayout) -> Critic:
    """The critic that the recipe names, for this generator's pictures.

    Raises:
        UsageError: the recipe has none, or the region is too small for it.
    """
    critic: Critic
    if recipe.critic == "none":
        raise UsageError(f"the recipe has no critic; there are {', '.join(CRITICS[1:])}")
    if recipe.critic == "released":
        critic = VisualQualityCritic()
    elif recipe.critic == "patch":
        critic = PatchCritic(recipe.depth, recipe.width, recipe.conditional)
    elif recipe.critic == "clip":
        critic = ClipCritic(WINDOW, recipe.depth, recipe.width, recipe.conditional)
    else:
        critic = AutoencoderCritic(_square_side(recipe, layout), recipe.width)
    critic = spectrally_normalised(critic) if recipe.spectral else critic
    pictures = torch.zeros(1, 3, WINDOW, layout.size, layout.size)
    seen = arranged(seen_by(recipe, layout, pictures), recipe)
    with torch.no_grad():
        critic.eval()(seen, seen)  # refuses what is too small
    return critic.train()


def _square_side(recipe: AdversaryRecipe, layout: PictureLayout) -> int:
    """The multiple of 8, from 64 on, whose square has as many pixels as the region, roughly."""
    height, width = _region(recipe.region, layout, torch.zeros(1, 1, 1, layout.size, layout.size)).shape[-2:]
    return max(64, 8 * round((height * width) ** 0.5 / 8))


def _region(region: str, layout: PictureLayout, pictures: Tensor) -> Tensor:
    if region == "whole":
        return pictures
    if region == "masked":
        return pictures[..., layout.mask_row :, :]
    left, top, side = (round(share * layout.size) for share in MOUTH)
    return pictures[..., top : top + side, left : left + side]


def seen_by(recipe: AdversaryRecipe, layout: PictureLayout, pictures: Tensor) -> Tensor:
    """What the critic sees of crops: the region, squared up for the critics that take one size only.

    Args:
        pictures: (B, 3, 5, S, S).

    Returns:
        (B, 3, 5, h, w); gradients pass through.
    """
    if recipe.critic == "released":
        return _resized(pictures, SIZE)
    seen = _region(recipe.region, layout, pictures)
    return _resized(seen, _square_side(recipe, layout)) if recipe.critic == "autoencoder" else seen


def _resized(windows: Tensor, side: int) -> Tensor:
    if windows.shape[-2:] == (side, side):
        return windows
    frames = windows.transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return frames.unflatten(0, (-1, windows.shape[2])).transpose(1, 2)


def arranged(windows: Tensor, recipe: AdversaryRecipe) -> Tensor:
    """Windows (B, 3, 5, h, w) for the clip critic, their frames (5 B, 3, h, w) for the others.

    So every row is judged by itself, which penalties and R1 rely on.
    """
    return windows if recipe.critic == "clip" else windows.transpose(1, 2).flatten(0, 1)
