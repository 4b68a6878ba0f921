"""How lip motion is learnt: the recipe with all of its stages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from preprocessing.errors import UsageError
from wav2lip.lip_motion.losses import MotionLossWeights
from wav2lip.lip_motion.model import MotionConfig
from wav2lip.lip_motion.speech.speech_encoder import EncoderName


@dataclass(frozen=True)
class LipMotionRecipe:
    """What is trained, and how.

    Attributes:
        encoder: Speech encoder whose features are heard.
        network: Shape of the network.
        weights: Of the losses.
        repair_rounds: Short trainings that find the recordings' own offsets; 0 leaves them.
        repair_steps: Of each of these.
        expert_steps: Of the expert for `weights.sync`.
        steps: Of the training itself.
        batch: Windows a step.
        window: Frames of a window.
        power: Of a person's duration, by which people are drawn.
        lr: Learning rate at its highest; it climbs for a tenth of the steps and falls by a cosine.
        weight_decay: Share of the rate by which weights shrink in a step.
        ema: Share of the old in the moving average of weights, which is what is kept.
        clip_gradient: Norm above which the gradient is scaled down.
        seed: Of the weights and of everything that is drawn.
    """

    encoder: EncoderName = "hama"
    network: MotionConfig = field(default_factory=MotionConfig)
    weights: MotionLossWeights = field(default_factory=MotionLossWeights)
    repair_rounds: int = 2
    repair_steps: int = 150
    expert_steps: int = 300
    steps: int = 150
    batch: int = 28
    window: int = 64
    power: float = 0.6
    lr: float = 1.5e-3
    weight_decay: float = 0.1
    ema: float = 0.985
    clip_gradient: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        least_of = {"repair_rounds": 0, "repair_steps": 1, "expert_steps": 0, "steps": 1, "batch": 1, "window": 8}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name in ("lr", "weight_decay", "clip_gradient", "seed"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema is a share below 1, not {self.ema}")
        if self.weights.sync and not self.expert_steps:
            raise UsageError(f"weights.sync is {self.weights.sync}, but expert_steps 0 leaves no expert")

    def lr_at(self, step: int, steps: int | None = None) -> float:
        """The learning rate of the step after `step` of `steps` (of the recipe's own) steps."""
        steps = steps or self.steps
        warm = max(1, steps // 10)
        return self.lr * min(1.0, (step + 1) / warm) * (0.51 + 0.49 * math.cos(math.pi * step / steps))
