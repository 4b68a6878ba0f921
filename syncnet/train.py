"""Trains the expert: `python -m syncnet.train CLIPS --out runs/expert`.

The folder of the run receives syncnet.safetensors (the network as it is), best.safetensors (as it was when it judged
people it does not know best), curve.png (its distance over shift), config.json (the recipe, good for --config),
log.jsonl, TensorBoard's events, and state.pt, from which the same command goes on. Exit code: 0 when it has trained, 1
when it could not go on, 2 for wrong usage, 130 when interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from preprocessing.commands import run_command
from preprocessing.dataset.clips import Clip, speaker_weights
from preprocessing.dataset.windows import batches, open_splits
from preprocessing.errors import TrainingError, UsageError
from syncnet.data import ProcessShare
from syncnet.loss import bce_loss, matching_loss, sync_probability
from syncnet.model import SmallSyncNet
from syncnet.plots import plot_curves
from syncnet.recipe import (
    LowerHalfSyncNet,
    SyncNetRecipe,
    build_network,
    build_optimizer,
    expert_of,
    load_network,
    save_network,
)
from syncnet.validation import validate
from training.engine import Engine
from training.options import parse_options
from training.run import RESUMES, RunFolder, due

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LARGEST_SCALE = 60  # of the cosines; beyond it single windows would rule the matching loss


@dataclass(frozen=True)
class SyncNetTrainOptions:
    """The job.

    Attributes:
        out: The run's folder; an earlier run there goes on.
        val: Folder of clips of other people; without it the split "val" of CLIPS is held out.
        init: An expert's checkpoint whose weights a new run starts from.
        workers: Processes a device that draw windows; 0: by the training one.
        log_every: Steps from one logged loss to the next.
        validate_every: Steps from one check on the held-out people, and one saved state, to the next.
    """

    out: Path
    val: Path | None = None
    init: Path | None = None
    workers: int = 0
    log_every: int = 20
    validate_every: int = 250

    def __post_init__(self) -> None:
        for name, least in {"workers": 0, "log_every": 1, "validate_every": 1}.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be {least} or more, not {getattr(self, name)}")


@dataclass
class SyncNetTrainState:
    """Everything that lives while training; `forward` is the network as Fabric runs it."""

    recipe: SyncNetRecipe
    fabric: Fabric
    network: SmallSyncNet | LowerHalfSyncNet
    forward: nn.Module
    optimizer: Any
    step: int = 0
    best: float = 0.0  # accuracy on the held-out clips


def start(recipe: SyncNetRecipe, fabric: Fabric, init: Path | None = None) -> SyncNetTrainState:
    """A new network, alike in all processes.

    Raises:
        UsageError: `init` is no checkpoint of an expert such as the recipe asks for.
    """
    torch.manual_seed(recipe.seed)
    network = build_network(recipe)
    if init:
        load_network(recipe, network, init)
    forward, optimizer = fabric.setup(network, build_optimizer(recipe, network))
    return SyncNetTrainState(recipe, fabric, network, forward, optimizer)


def train_step(state: SyncNetTrainState, batch: Sequence[Tensor]) -> dict[str, Tensor]:
    """One step on what `SyncNetRecipe.draw` gave, in batches; returns the loss by its name, and what is of interest.

    Raises:
        TrainingError: the loss is no number; the network is as it was before.
    """
    recipe, fabric = state.recipe, state.fabric
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.lr_at(state.step)
    # Dropout depends on seed, step and process alone, so that a run that was stopped goes on as if it had not been.
    drawn = np.random.SeedSequence((recipe.seed, state.step, fabric.global_rank)).generate_state(1)
    torch.manual_seed(int(drawn[0]))
    losses = _match(state, *batch) if recipe.loss == "matching" else _judge(state, *batch)
    loss = losses[recipe.loss]
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss is {loss.item()} at step {state.step}; try a lower rate")
    state.optimizer.zero_grad()
    fabric.backward(loss)
    if recipe.clip_gradient:
        fabric.clip_gradients(state.forward, state.optimizer, max_norm=recipe.clip_gradient, error_if_nonfinite=False)
    state.optimizer.step()
    state.step += 1
    return {name: value.detach() for name, value in losses.items()}


def _match(state: SyncNetTrainState, mels: Tensor, mouths: Tensor) -> dict[str, Tensor]:
    """On (C, W, 1, 80, 16) mels and (C, W, 15, S, S) mouths."""
    audio, face = state.forward(mels.flatten(0, 1), mouths.flatten(0, 1))
    shape, scale = mels.shape[:2], state.network.log_scale.exp().clamp(max=LARGEST_SCALE)
    loss = matching_loss(
        audio.unflatten(0, shape), face.unflatten(0, shape), scale, state.recipe.batch_contrastive_weight
    )
    return {"matching": loss, "scale": scale}


def _judge(state: SyncNetTrainState, mels: Tensor, mouths: Tensor, together: Tensor) -> dict[str, Tensor]:
    """On (C, 1, 80, 16) mels, (C, 15, S, S) mouths and (C,) whether they belong together, 1 or 0."""
    audio, face = state.forward(mels, mouths)
    cosine = sync_probability(face, audio)
    signed = isinstance(state.network, SmallSyncNet)  # then P_sync is (1 + cos) / 2 (SIDGAN, ICCV 2023)
    return {"bce": bce_loss((1 + cosine) / 2 if signed else cosine, together)}


def check(state: SyncNetTrainState, run: RunFolder, held_out: Sequence[Clip]) -> None:
    """Validates, and writes the checkpoints and the state; by one of several processes."""
    if not run.writes:
        return
    recipe, network, values = state.recipe, state.network, dict[str, float]()
    if held_out:
        found = validate(expert_of(recipe, network, state.step), held_out)
        values = found.values()
        run.log(state.step, **values)
        plot_curves({f"step {state.step}": found.curve}, run.folder / "curve.png")
        run.add_image(state.step, "curve", run.folder / "curve.png")
    save_network(recipe, network, state.step, run.folder / "syncnet.safetensors")
    if values.get("accuracy", 0.0) > state.best:
        state.best = values["accuracy"]
        save_network(recipe, network, state.step, run.folder / "best.safetensors")
    parts = {"network": network.state_dict(), "optimizer": state.optimizer.state_dict()}
    run.save_state({"step": state.step, "best": state.best, "recipe": asdict(recipe)} | parts)


def resume(state: SyncNetTrainState, run: RunFolder) -> None:
    """Goes on from the folder's state if there is one, with its own recipe but for the number of steps.

    Raises:
        UsageError: it was trained by another recipe; the field and both values are named.
    """
    if (saved := run.load_state(asdict(state.recipe))) is None:
        return
    state.network.load_state_dict(saved["network"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.best = saved["step"], saved["best"]
    run.truncate_log(state.step)


def train(clips: Path, recipe: SyncNetRecipe, flags: SyncNetTrainOptions, engine: Engine) -> None:
    """Trains up to `recipe.steps` steps, in each of the engine's processes.

    Raises:
        UsageError: the clips, the options or an earlier run in the folder do not fit.
        TrainingError: the loss is no number any more.
    """
    if recipe.clips_per_step % engine.devices:
        raise UsageError(f"clips_per_step {recipe.clips_per_step} cannot be shared out among {engine.devices} devices")
    seen, held_out = open_splits(clips, flags.val, recipe.span)
    fabric = engine.launch()
    run = RunFolder(flags.out, board=True, writes=fabric.is_global_zero)
    state = start(recipe, fabric, flags.init)
    resume(state, run)
    run.write_config(asdict(recipe))
    size = recipe.clips_per_step // fabric.world_size
    share = ProcessShare(
        seen, speaker_weights(seen), recipe.draw, recipe.seed, size, fabric.global_rank, fabric.world_size
    )
    stream = batches(share, size, range(state.step, recipe.steps), workers=flags.workers)
    quiet = None if run.writes else True  # tqdm's None: a bar only on a terminal
    for batch in tqdm(stream, total=recipe.steps, initial=state.step, unit="step", disable=quiet):
        losses = train_step(state, fabric.to_device(batch))
        if due(state.step, flags.log_every):
            run.log(state.step, **{name: value.item() for name, value in losses.items()})
        if due(state.step, flags.validate_every) or state.step == recipe.steps:
            check(state, run, held_out)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        given = sys.argv[1:] if argv is None else argv
        clips, options = parse_options(
            given, "python -m syncnet.train", __doc__, SyncNetTrainOptions, SyncNetRecipe, Engine
        )
        flags, recipe, engine = options
        train(clips, recipe, flags, engine)

    return run_command("syncnet.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
