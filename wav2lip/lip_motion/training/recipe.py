"""The training recipe of lip motion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from preprocessing.errors import UsageError, require_at_least
from wav2lip.lip_motion.motion_config import MotionConfig
from wav2lip.lip_motion.speech.speech_encoder import EncoderName
from wav2lip.lip_motion.training.losses import MotionLossWeights


@dataclass(frozen=True)
class LipMotionRecipe:
    """Training recipe.

    Attributes:
        encoder: Speech encoder.
        network: Architecture of the network.
        weights: Loss weights.
        repair_rounds: Rounds of short training to correct the recordings' audio-video offsets; 0 for none.
        repair_steps: Training steps of each round.
        expert_steps: Training steps of the sync expert for `weights.sync`.
        steps: Training steps of the network.
        batch: Windows per step.
        window: Window length in frames.
        power: People are sampled in proportion to their duration to this power.
        lr: Peak learning rate, with linear warmup over a tenth of the steps and cosine decay.
        weight_decay: Weight decay of AdamW.
        style_dropout: Fraction of the windows that train without their person's style; 1 trains no styles.
        style_decay: Weight decay of the styles.
        ema: Decay of the exponential moving average of the weights, which is what is saved.
        clip_gradient: Maximum gradient norm; 0 for no clipping.
        seed: Random seed of initialization and sampling.
    """

    encoder: EncoderName = "whisper"
    network: MotionConfig = field(default_factory=MotionConfig)
    weights: MotionLossWeights = field(default_factory=MotionLossWeights)
    repair_rounds: int = 2
    repair_steps: int = 150
    expert_steps: int = 300
    steps: int = 300
    batch: int = 28
    window: int = 64
    power: float = 0.6
    lr: float = 1.5e-3
    weight_decay: float = 0.1
    style_dropout: float = 0.3
    style_decay: float = 1.0
    ema: float = 0.985
    clip_gradient: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, repair_rounds=0, repair_steps=1, expert_steps=0, steps=1, batch=1, window=8)
        require_at_least(self, lr=0, weight_decay=0, style_decay=0, clip_gradient=0, seed=0)
        if not 0 <= self.style_dropout <= 1:
            raise UsageError(f"style_dropout must be from 0 to 1, not {self.style_dropout}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must be at least 0 and below 1, not {self.ema}")
        if self.weights.sync and not self.expert_steps:
            raise UsageError(f"weights.sync is {self.weights.sync}, but expert_steps is 0, so there is no expert")

    def lr_at(self, step: int, steps: int | None = None) -> float:
        """Learning rate of step `step`, counted from 0, of `steps` (by default the recipe's)."""
        steps = steps or self.steps
        warm = max(1, steps // 10)
        return self.lr * min(1.0, (step + 1) / warm) * (0.51 + 0.49 * math.cos(math.pi * step / steps))
