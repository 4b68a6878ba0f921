"""The painter's training recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from preprocessing.errors import UsageError
from wav2lip.gan.objectives import objective
from wav2lip.renderer.painter import PainterConfig


@dataclass(frozen=True)
class PainterLossWeights:
    """Loss weights.

    Attributes:
        pixels: L1 inside the painted region.
        coarse: L1 of both reduced by four: colors and brightness.
        edges: L1 of the gradients.
        paint: L1 of the paint alone, so that it learns where the mixture copies.
        adversarial: The critic's objective.
        features: Feature matching with the critic's layers.
        content: L1 of the sync expert's first features (SRGAN's content loss, arXiv 1609.04802).
    """

    pixels: float = 1.0
    coarse: float = 1.0
    edges: float = 0.5
    paint: float = 0.2
    adversarial: float = 0.15
    features: float = 1.0
    content: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) >= 0:
                raise UsageError(f"weights.{item.name} must be 0 or more, not {getattr(self, item.name)}")


@dataclass(frozen=True)
class CriticRecipe:
    """The critic's training.

    Attributes:
        objective: Name of an objective in `wav2lip.gan.objectives`, or "none".
        width: Channels of the first layer.
        lr: Learning rate.
        paired: Score the difference between the real and the painted mouth of a sample (relativistic pairing, arXiv
            1807.00734, 2501.05441): mouths differ more from each other than real ones from painted ones.
        steps: Critic steps per painter step; null: the value of the objective's paper.
        r1: Weight of the R1 penalty; 0 for none.
        r1_every: Critic steps between R1 penalties, and the factor on the penalty.
        mismatched: Weight of real mouths with another sample's masks, which are to be called fake (Reed et al., 2016).
        start: Step from which the painter gets the critic's losses; the critic learns from half of it.
        projection, batch_deviation: See `MouthCritic`.
    """

    objective: str = "non-saturating"
    width: int = 32
    lr: float = 1e-3
    paired: bool = True
    steps: int | None = None
    r1: float = 0.1
    r1_every: int = 8
    mismatched: float = 0.5
    start: int = 150
    projection: bool = False
    batch_deviation: bool = False

    def __post_init__(self) -> None:
        least = {"width": 1, "lr": 0, "steps": 1, "r1": 0, "r1_every": 1, "mismatched": 0, "start": 0}
        for name, bound in least.items():
            if (value := getattr(self, name)) is not None and not value >= bound:
                raise UsageError(f"critic.{name} must be {bound} or more, not {value}")
        if self.objective != "none" and objective(self.objective).energies:
            raise UsageError(f"critic.objective {self.objective} needs energies; choose one that takes logits")


@dataclass(frozen=True)
class PainterRecipe:
    """Training recipe.

    Attributes:
        network: Architecture of the painter.
        weights: Loss weights.
        critic: The critic's training.
        growing: Share of the steps in which losses and critic see half the resolution; over as many more steps the
            full one is faded in (ProGAN, arXiv 1710.10196). At most 0.5.
        others: Most mouths of the same video that the person's code is made from; used if the network has one.
        steps: Training steps.
        batch: Samples per step.
        lr: Peak learning rate, with linear warmup over `warmup` steps and cosine decay.
        warmup: Steps.
        ema: Decay of the exponential moving average of the weights, which is what is saved.
        clip_gradient: Maximum gradient norm; 0 for no clipping.
        seed: Random seed of initialization and sampling.
    """

    network: PainterConfig = field(default_factory=PainterConfig)
    weights: PainterLossWeights = field(default_factory=PainterLossWeights)
    critic: CriticRecipe = field(default_factory=CriticRecipe)
    growing: float = 0.0
    others: int = 8
    steps: int = 5000
    batch: int = 8
    lr: float = 1e-3
    warmup: int = 50
    ema: float = 0.997
    clip_gradient: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "batch": 2, "warmup": 1, "others": 1}.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name in ("lr", "clip_gradient", "seed"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.growing <= 0.5:
            raise UsageError(f"growing must be 0 to 0.5, not {self.growing}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must be at least 0 and below 1, not {self.ema}")

    def lr_at(self, step: int) -> float:
        """Factor on learning rates at step `step`, counted from 0: warmup, then a cosine to 4 %."""
        decay = 0.52 + 0.48 * math.cos(math.pi * min(step / self.steps, 1.0))
        return min(1.0, (step + 1) / self.warmup) * decay

    def fine_share(self, step: int) -> float:
        """How much of the full resolution losses and critic see at step `step`, 0 to 1."""
        if not self.growing:
            return 1.0
        return min(max(step / (self.growing * self.steps) - 1, 0.0), 1.0)
