"""How a generator is trained: the recipe, its learning rates and its optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from preprocessing.errors import UsageError
from wav2lip.gan.adversary_recipe import AdversaryRecipe
from wav2lip.generator.data import Sampling
from wav2lip.generator.losses import LossWeights
from wav2lip.generator.model import GeneratorConfig

SHIPPED = GeneratorConfig(network="unet", width=32, size=128, mask_row=53, output="warp", audio_encoder="syncnet")
SAMPLING, WEIGHTS, NOBODY = Sampling(), LossWeights(), AdversaryRecipe()
LEAST = {"windows_per_step": 1, "accumulate": 1, "steps": 1, "warmup_steps": 0, "sync_ramp": 0, "seed": 0}
NOT_NEGATIVE = ("lr", "weight_decay", "clip_gradient")
LAST_RATE = 0.02  # share of the rate that the cosine ends at


@dataclass(frozen=True)
class GeneratorRecipe:
    """What is trained, and how.

    Attributes:
        generator: Its shape; a norm in its hearing is the expert's, whatever `audio_encoder_norm` says.
        sampling: How windows are drawn.
        weights: Of the losses; one with the weight 0 is not computed.
        adversary: The critic and its training.
        sync: The sync loss' form: "log" is -log((1 + cos) / 2), "bce" the published one, "relative" the stabilised one.
        sync_start: Step from which the sync loss takes part; none: as soon as reconstruction has settled.
        sync_ramp: Steps in which its weight then grows to its whole.
        sync_moves_only: The sync loss may move the lips but not paint: a generator that may paint for the expert paints
            dots. Without effect on one that only paints.
        optimizer: "adamw" or "adam".
        lr: Learning rate at its highest.
        betas: Decays of the optimiser's moments.
        schedule: "cosine" falls to a fiftieth of the rate within the steps; "constant".
        warmup_steps: Steps in which the rate climbs.
        weight_decay: Share of the rate by which weights shrink in a step.
        clip_gradient: Norm above which the gradient is scaled down; 0 leaves it.
        ema: Decay of the averaged weights, which are the ones that are kept; 0 keeps the trained ones themselves.
        windows_per_step: Of five frames each, drawn by all devices together.
        accumulate: Parts in which a device takes its windows of a step, to save memory. A critic learns from the last.
        steps: To train.
        seed: Of the weights and of everything that is drawn.
    """

    generator: GeneratorConfig = SHIPPED
    sampling: Sampling = SAMPLING
    weights: LossWeights = WEIGHTS
    adversary: AdversaryRecipe = NOBODY
    sync: Literal["log", "bce", "relative"] = "log"
    sync_start: int | None = None
    sync_ramp: int = 400
    sync_moves_only: bool = True
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_gradient: float = 1.0
    ema: float = 0.998
    windows_per_step: int = 4
    accumulate: int = 1
    steps: int = 8000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name in NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.sync_start is not None and self.sync_start < 0:
            raise UsageError(f"sync_start is a step from 0 on, or none, not {self.sync_start}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema is a share below 1, not {self.ema}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas are two shares below 1, not {self.betas}")
        if self.windows_per_step % self.accumulate:
            raise UsageError(f"windows_per_step {self.windows_per_step} cannot be taken in {self.accumulate} parts")
        self._check_losses()

    def _check_losses(self) -> None:
        weights, critic = self.weights, self.adversary.critic
        if (critic == "none") != (weights.adversarial == 0 and weights.feature_matching == 0):
            given = f"weights.adversarial {weights.adversarial}, weights.feature_matching {weights.feature_matching}"
            raise UsageError(f"a critic needs a weight and a weight a critic, not adversary.critic {critic!r}, {given}")
        if self.generator.output == "paint" and (weights.smooth or weights.paint):
            given = f"{weights.smooth} and {weights.paint}"
            raise UsageError(f"a painting generator has no flow: weights.smooth and .paint must be 0, not {given}")

    def lr_at(self, step: int) -> float:
        """The learning rate of the step after `step` steps."""
        warmup_steps = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant":
            return self.lr * warmup_steps
        done = min(1.0, step / self.steps)
        return self.lr * warmup_steps * (LAST_RATE + (1 - LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * done)))

    def ema_decay_at(self, step: int) -> float:
        """The average's decay in the step after `step` steps; at first it follows the weights more closely."""
        return min(self.ema, (1 + step) / (10 + step))


def build_optimizer(recipe: GeneratorRecipe, network: nn.Module) -> torch.optim.Optimizer:
    """Of everything that is learnt."""
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    learnt = [weight for weight in network.parameters() if weight.requires_grad]
    return kind(learnt, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
