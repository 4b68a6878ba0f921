"""Trains the occlusion network on faces with made-up occluders.

    python -m preprocessing.faces.occlusion.train --config configs/occlusion.yaml --crops CROPS --out runs/occlusion

--crops is the folder of face crops that preprocessing.faces.landmarks.train makes (its --cache): train/ and, of
held-out people, val/ if there is one.
Writes to the run folder: occlusion.safetensors (the averaged weights, 16-bit), log.jsonl with figures on held-out
people, config.json and state.pt, from which the same command resumes. Exit code: 0 on success, 1 if training failed,
2 for wrong usage, 130 if interrupted.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # what follows takes seconds to import
    print("preprocessing.faces.occlusion.train: starting", file=sys.stderr, flush=True)

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from preprocessing.commands import run_command
from preprocessing.errors import UsageError, require_at_least
from preprocessing.faces.landmarks.training.crops import open_crops
from preprocessing.faces.occlusion.model import CROP, KIND, OcclusionConfig, OcclusionNet
from preprocessing.faces.occlusion.training.examples import OcclusionAugmentation, OcclusionExamples
from training.averaging import AveragedState
from training.checkpoint import Checkpoint
from training.engine import Engine
from training.options import parse_recipe
from training.progress import training_steps
from training.run import RESUMES, RunFolder, due

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VALIDATION, BATCH = 256, 32  # held-out examples; examples per forward pass


@dataclass(frozen=True)
class OcclusionRecipe:
    """Training recipe.

    Attributes:
        network: Architecture.
        augmentation: Data augmentation.
        steps: Training steps.
        batch: Examples per step.
        lr: Peak learning rate, with linear warmup and cosine decay.
        warmup: Warmup steps.
        weight_decay: Weight decay of AdamW.
        overlap: Weight of the soft Dice loss beside the cross-entropy.
        average: Decay of the exponential moving average of the weights, which is what is saved.
        seed: Random seed of initialization and sampling.
    """

    network: OcclusionConfig = field(default_factory=OcclusionConfig)
    augmentation: OcclusionAugmentation = field(default_factory=OcclusionAugmentation)
    steps: int = 4000
    batch: int = 16
    lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 1e-3
    overlap: float = 0.5
    average: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, batch=1, warmup=1)

    def lr_at(self, step: int) -> float:
        """Learning rate at a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        return self.lr * rise * (0.505 + 0.495 * math.cos(math.pi * min(1.0, step / self.steps)))


@dataclass(frozen=True)
class OcclusionTrainOptions:
    """Training job.

    Attributes:
        crops: Folder of face crops with the part train and, for validation, val.
        out: Run folder; an existing run in it is resumed.
        log_every: Steps between logged losses.
        validate_every: Steps between validations and saved states.
    """

    crops: Path
    out: Path
    log_every: int = 50
    validate_every: int = 250

    def __post_init__(self) -> None:
        require_at_least(self, log_every=1, validate_every=1)


OcclusionTrainState = AveragedState[OcclusionRecipe, OcclusionNet]


def start(recipe: OcclusionRecipe, fabric: Fabric) -> OcclusionTrainState:
    """Initializes training."""
    torch.manual_seed(recipe.seed)
    return AveragedState.start(recipe, fabric, OcclusionNet(recipe.network))


def batch_of(examples: OcclusionExamples, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Crops (B, 3, S, S), 0 to 1, and masks (B, S / 2, S / 2)."""
    images, masks = zip(*(examples.draw(int(row), rng) for row in rows), strict=True)
    crops = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return crops.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.stack(masks))


def mask_loss(logits: Tensor, masks: Tensor, overlap: float) -> Tensor:
    """Cross-entropy plus `overlap` times 1 - Dice over the batch (Milletari et al., arXiv 1606.04797)."""
    shown = torch.sigmoid(logits)
    dice = (2 * (shown * masks).sum() + 1) / (shown.sum() + masks.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + overlap * (1 - dice)


def train_step(state: OcclusionTrainState, crops: Tensor, masks: Tensor) -> float:
    """Runs one training step; returns the loss.

    Raises:
        TrainingError: the loss is not finite; the network is unchanged.
    """
    loss = mask_loss(state.forward(crops), masks, state.recipe.overlap)
    state.descend(loss)
    return float(loss.detach())


@torch.no_grad()
def measure(network: OcclusionNet, examples: OcclusionExamples, seed: int = 0) -> dict[str, float]:
    """Figures on held-out people, at probability one half.

    Returns:
        `iou` over all covered examples, `missed`, the fraction of covered examples found by less than half, and
        `false`, the mean fraction of cells called covered in examples without an occluder.
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(examples.views), VALIDATION)
    shared = total = 0.0
    missed, false = [], []
    for first in range(0, VALIDATION, BATCH):
        crops, masks = batch_of(examples, rows[first : first + BATCH], rng)
        for found, mask in zip(network(crops) > 0, masks > 0.5, strict=True):
            if mask.any():
                shared, total = shared + float((found & mask).sum()), total + float((found | mask).sum())
                missed.append(float((found & mask).sum() < mask.sum() / 2))
            else:
                false.append(float(found.float().mean()))
    return {"iou": shared / max(total, 1), "missed": float(np.mean(missed or 0)), "false": float(np.mean(false or 0))}


def check(state: OcclusionTrainState, run: RunFolder, held_out: OcclusionExamples | None) -> None:
    """Validates and writes weights and state; on rank 0 only."""
    if not run.writes:
        return
    if held_out:
        run.log(state.step, **{f"val_{name}": value for name, value in measure(state.averaged, held_out).items()})
    config = asdict(state.recipe.network)
    Checkpoint(KIND, config, {}, CROP, state.averaged.state_dict(), state.step).save(
        run.folder / "occlusion.safetensors", half=True
    )
    state.save(run)


def train(recipe: OcclusionRecipe, flags: OcclusionTrainOptions, engine: Engine) -> None:
    """Trains up to `recipe.steps` steps.

    Raises:
        UsageError: the crops, options or an earlier run in the folder are incompatible.
        TrainingError: the loss is not finite.
    """
    if engine.devices > 1:
        raise UsageError(f"the occlusion network trains in a single process, not {engine.devices}")
    seen, held_out = OcclusionExamples(open_crops(flags.crops / "train"), recipe.augmentation), None
    if (flags.crops / "val").is_dir():
        held_out = OcclusionExamples(open_crops(flags.crops / "val"), recipe.augmentation)
    fabric = engine.launch()
    run = RunFolder(flags.out, writes=fabric.is_global_zero)
    state = start(recipe, fabric)
    state.resume(run)
    run.write_config(asdict(recipe))
    for step in training_steps(range(state.step, recipe.steps), state.step, recipe.steps, run.writes):
        rng = np.random.default_rng((recipe.seed, step))
        crops, masks = batch_of(seen, rng.integers(0, len(seen.views), recipe.batch), rng)
        loss = train_step(state, fabric.to_device(crops), fabric.to_device(masks))
        if due(state.step, flags.log_every):
            run.log(state.step, loss=loss)
        if due(state.step, flags.validate_every) or state.step == recipe.steps:
            check(state, run, held_out)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        given = sys.argv[1:] if argv is None else argv
        program = "python -m preprocessing.faces.occlusion.train"
        flags, recipe, engine = parse_recipe(given, program, __doc__, OcclusionTrainOptions, OcclusionRecipe, Engine)
        train(recipe, flags, engine)

    return run_command("preprocessing.faces.occlusion.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
