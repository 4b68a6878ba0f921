"""Training recipe of a generator, with its learning rate schedule and optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from preprocessing.errors import UsageError, require_at_least
from wav2lip.gan.adversary_recipe import AdversaryRecipe
from wav2lip.generator.data import Sampling
from wav2lip.generator.losses import LossWeights
from wav2lip.generator.model import GeneratorConfig

GENERATOR, SAMPLING, WEIGHTS, NO_ADVERSARY = GeneratorConfig(), Sampling(), LossWeights(), AdversaryRecipe()
NON_NEGATIVE = ("lr", "weight_decay", "clip_gradient")
FINAL_LR_FRACTION = 0.02  # of the peak learning rate, at the end of the cosine schedule


@dataclass(frozen=True)
class GeneratorRecipe:
    """Network, losses and schedule of a generator's training.

    Attributes:
        generator: Architecture.
        sampling: How training windows are sampled.
        weights: Loss weights; a loss with weight 0 is not computed.
        adversary: The critic and its training.
        sync: Form of the sync loss: "log" is -log((1 + cos) / 2), "bce" the published one, "relative" the stabilized
            one.
        sync_start: Step at which the sync loss starts; null: once reconstruction has converged.
        sync_ramp: Steps over which its weight then grows to the full value.
        optimizer: "adamw" or "adam".
        lr: Peak learning rate.
        betas: Adam's beta1 and beta2.
        schedule: "cosine" decays to 1/50 of the peak; "constant" keeps the rate.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Weight decay.
        clip_gradient: Gradient norm limit; 0: no clipping.
        ema: Decay of the averaged weights, which are the ones saved; 0 saves the trained weights.
        windows_per_step: Five-frame windows per step, over all devices.
        accumulate: Gradient accumulation: parts per step, to save memory. The critic trains on the last part only.
        steps: Training steps.
        seed: Seed of the weights and of all random draws.
    """

    generator: GeneratorConfig = GENERATOR
    sampling: Sampling = SAMPLING
    weights: LossWeights = WEIGHTS
    adversary: AdversaryRecipe = NO_ADVERSARY
    sync: Literal["log", "bce", "relative"] = "log"
    sync_start: int | None = None
    sync_ramp: int = 400
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
        require_at_least(self, windows_per_step=1, accumulate=1, steps=1, warmup_steps=0, sync_ramp=0, seed=0)
        for name in NON_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.sync_start is not None and self.sync_start < 0:
            raise UsageError(f"sync_start must be 0 or more, or null, not {self.sync_start}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must be at least 0 and below 1, not {self.ema}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas must be two numbers of at least 0 and below 1, not {self.betas}")
        if self.windows_per_step % self.accumulate:
            raise UsageError(f"accumulate {self.accumulate} does not divide windows_per_step {self.windows_per_step}")
        self._check_losses()

    def _check_losses(self) -> None:
        weights, critic = self.weights, self.adversary.critic
        if (critic == "none") != (weights.adversarial == 0 and weights.feature_matching == 0):
            values = f"weights.adversarial {weights.adversarial}, weights.feature_matching {weights.feature_matching}"
            raise UsageError(f"a critic needs a weight and vice versa, not adversary.critic {critic!r}, {values}")

    def lr_at(self, step: int) -> float:
        """The learning rate of step number `step`, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant":
            return self.lr * warmup
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps))
        return self.lr * warmup * (FINAL_LR_FRACTION + (1 - FINAL_LR_FRACTION) * cosine)

    def ema_decay_at(self, step: int) -> float:
        """EMA decay of step number `step`, lower during the first steps."""
        return min(self.ema, (1 + step) / (10 + step))


def build_optimizer(recipe: GeneratorRecipe, network: nn.Module) -> torch.optim.Optimizer:
    """Builds the optimizer of all trainable parameters."""
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    trainable = [weight for weight in network.parameters() if weight.requires_grad]
    return kind(trainable, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
