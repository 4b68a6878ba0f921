"""Trains a sync expert: `python -m syncnet.train CLIPS --out runs/expert`.

Writes to the run folder: syncnet.safetensors (latest weights), best.safetensors (highest accuracy on held-out
speakers), curve.png (distance over AV offset), config.json (the recipe, usable with --config), log.jsonl, TensorBoard
events, and state.pt, from which the same command resumes.

Exit codes: 0 when training is complete, 1 when it failed, 2 for invalid usage, 130 when interrupted.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # what follows takes seconds to import
    print("syncnet.train: starting", file=sys.stderr, flush=True)

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing.commands import run_command
from preprocessing.dataset.clips import Clip, speaker_weights
from preprocessing.dataset.windows import batches, open_splits
from preprocessing.errors import TrainingError, UsageError, require_at_least
from syncnet.data import ShardedDataset
from syncnet.model import SmallSyncNet
from syncnet.plots import plot_curves
from syncnet.training.loss import bce_loss, matching_loss, sync_probability
from syncnet.training.recipe import (
    LowerHalfSyncNet,
    SyncNetRecipe,
    as_sync_expert,
    build_network,
    build_optimizer,
    load_network,
    save_network,
)
from syncnet.training.validation import validate
from training.engine import Engine
from training.options import parse_options
from training.progress import training_steps
from training.run import RESUMES, RunFolder, due

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MAX_SCALE = 60  # of the cosines; beyond it, single windows dominate the matching loss


@dataclass(frozen=True)
class SyncNetTrainOptions:
    """Options of a training run.

    Attributes:
        out: Run folder; a run that exists there is resumed.
        val: Folder of clips of held-out people; default: the "val" split of CLIPS.
        init: Checkpoint of an expert to start from.
        workers: Data loading processes per device; 0: load in the training process.
        log_every: Steps between log lines.
        validate_every: Steps between validations, each of which saves the training state.
    """

    out: Path
    val: Path | None = None
    init: Path | None = None
    workers: int = 0
    log_every: int = 20
    validate_every: int = 250

    def __post_init__(self) -> None:
        require_at_least(self, workers=0, log_every=1, validate_every=1)


@dataclass
class SyncNetTrainState:
    """The state of a training run; `forward` is the network wrapped by Fabric."""

    recipe: SyncNetRecipe
    fabric: Fabric
    network: SmallSyncNet | LowerHalfSyncNet
    forward: nn.Module
    optimizer: Any
    step: int = 0
    best: float = 0.0  # accuracy on the held-out clips


def create_state(recipe: SyncNetRecipe, fabric: Fabric, init: Path | None = None) -> SyncNetTrainState:
    """Creates a new training state, identical in all processes.

    Raises:
        UsageError: `init` is not a checkpoint that matches the recipe.
    """
    torch.manual_seed(recipe.seed)
    network = build_network(recipe)
    if init:
        load_network(recipe, network, init)
    forward, optimizer = fabric.setup(network, build_optimizer(recipe, network))
    return SyncNetTrainState(recipe, fabric, network, forward, optimizer)


def train_step(state: SyncNetTrainState, batch: Sequence[Tensor]) -> dict[str, Tensor]:
    """Runs one step on a batch of `SyncNetRecipe.draw`'s samples; returns the loss and other values to log by name.

    Raises:
        TrainingError: the loss is not finite; the weights are unchanged.
    """
    recipe, fabric = state.recipe, state.fabric
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.lr_at(state.step)
    # Dropout depends only on seed, step and rank, so that a resumed run is identical to an uninterrupted one.
    drawn = np.random.SeedSequence((recipe.seed, state.step, fabric.global_rank)).generate_state(1)
    torch.manual_seed(int(drawn[0]))
    losses = _matching_losses(state, *batch) if recipe.loss == "matching" else _bce_losses(state, *batch)
    loss = losses[recipe.loss]
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss is {loss.item()} at step {state.step}; try a lower learning rate")
    state.optimizer.zero_grad()
    fabric.backward(loss)
    if recipe.clip_gradient:
        fabric.clip_gradients(state.forward, state.optimizer, max_norm=recipe.clip_gradient, error_if_nonfinite=False)
    state.optimizer.step()
    state.step += 1
    return {name: value.detach() for name, value in losses.items()}


def _matching_losses(state: SyncNetTrainState, mels: Tensor, mouths: Tensor) -> dict[str, Tensor]:
    """The matching loss of (C, W, 1, 80, 16) mels and (C, W, 15, S, S) mouths."""
    audio, face = state.forward(mels.flatten(0, 1), mouths.flatten(0, 1))
    shape, scale = mels.shape[:2], state.network.log_scale.exp().clamp(max=MAX_SCALE)
    loss = matching_loss(
        audio.unflatten(0, shape), face.unflatten(0, shape), scale, state.recipe.batch_contrastive_weight
    )
    return {"matching": loss, "scale": scale}


def _bce_losses(state: SyncNetTrainState, mels: Tensor, mouths: Tensor, in_sync: Tensor) -> dict[str, Tensor]:
    """The BCE loss of (C, 1, 80, 16) mels, (C, 15, S, S) mouths and (C,) labels, 1 in sync and 0 off-sync."""
    audio, face = state.forward(mels, mouths)
    cosine = sync_probability(face, audio)
    signed = isinstance(state.network, SmallSyncNet)  # then P_sync is (1 + cos) / 2 (SIDGAN, ICCV 2023)
    return {"bce": bce_loss((1 + cosine) / 2 if signed else cosine, in_sync)}


def validate_and_save(state: SyncNetTrainState, run: RunFolder, held_out: Sequence[Clip]) -> None:
    """Validates and writes the checkpoints and the training state, in the writing process only."""
    if not run.writes:
        return
    recipe, network, values = state.recipe, state.network, dict[str, float]()
    if held_out:
        result = validate(as_sync_expert(recipe, network, state.step), held_out)
        values = result.values()
        run.log(state.step, **values)
        plot_curves({f"step {state.step}": result.curve}, run.folder / "curve.png")
        run.add_image(state.step, "curve", run.folder / "curve.png")
    save_network(recipe, network, state.step, run.folder / "syncnet.safetensors")
    if values.get("accuracy", 0.0) > state.best:
        state.best = values["accuracy"]
        save_network(recipe, network, state.step, run.folder / "best.safetensors")
    parts = {"network": network.state_dict(), "optimizer": state.optimizer.state_dict()}
    run.save_state({"step": state.step, "best": state.best, "recipe": asdict(recipe)} | parts)


def resume(state: SyncNetTrainState, run: RunFolder) -> None:
    """Resumes from the saved state if there is one; its recipe must be the same except for the number of steps.

    Raises:
        UsageError: the recipes differ; the message names the field and both values.
    """
    if (saved := run.load_state(asdict(state.recipe))) is None:
        return
    state.network.load_state_dict(saved["network"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.best = saved["step"], saved["best"]
    run.truncate_log(state.step)


def train(clips: Path, recipe: SyncNetRecipe, options: SyncNetTrainOptions, engine: Engine) -> None:
    """Trains until step `recipe.steps`; runs in each of the engine's processes.

    Raises:
        UsageError: the clips, the options or an existing run in the folder do not match.
        TrainingError: the loss is not finite.
    """
    if recipe.clips_per_step % engine.devices:
        raise UsageError(f"clips_per_step {recipe.clips_per_step} is not divisible by {engine.devices} devices")
    train_clips, held_out = open_splits(clips, options.val, recipe.span)
    fabric = engine.launch()
    run = RunFolder(options.out, board=True, writes=fabric.is_global_zero)
    state = create_state(recipe, fabric, options.init)
    resume(state, run)
    run.write_config(asdict(recipe))
    size = recipe.clips_per_step // fabric.world_size
    dataset = ShardedDataset(
        train_clips, speaker_weights(train_clips), recipe.draw, recipe.seed, size, fabric.global_rank, fabric.world_size
    )
    stream = batches(dataset, size, range(state.step, recipe.steps), workers=options.workers)
    for batch in training_steps(stream, state.step, recipe.steps, run.writes):
        losses = train_step(state, fabric.to_device(batch))
        if due(state.step, options.log_every):
            run.log(state.step, **{name: value.item() for name, value in losses.items()})
        if due(state.step, options.validate_every) or state.step == recipe.steps:
            validate_and_save(state, run, held_out)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        args = sys.argv[1:] if argv is None else argv
        clips, parsed = parse_options(
            args, "python -m syncnet.train", __doc__, SyncNetTrainOptions, SyncNetRecipe, Engine
        )
        options, recipe, engine = parsed
        train(clips, recipe, options, engine)

    return run_command("syncnet.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
