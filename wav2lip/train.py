"""Trains a generator: `python -m wav2lip.train CLIPS --expert syncnet.safetensors --out runs/generator`.

The generator learns to reconstruct five frames of a clip from their unmasked upper part, their audio and a reference
from elsewhere in the clip. The frozen sync expert's loss is added once reconstruction has converged, and a critic if
the recipe has one.

Writes to the run folder: generator.safetensors (EMA weights), best.safetensors (highest judge score on held-out people;
lowest L1 before the sync loss starts), grid.png, config.json (the recipe, usable with --config), log.jsonl, TensorBoard
events, and state.pt, from which the same command resumes. If a loss becomes non-finite, dump.pt holds that step.

Exit codes: 0 when training is complete, 1 when it failed, 2 for invalid usage, 130 when interrupted.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # what follows takes seconds to import
    print("wav2lip.train: starting", file=sys.stderr, flush=True)

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from preprocessing.commands import run_command
from preprocessing.dataset.clips import Clip, speaker_weights
from preprocessing.dataset.windows import batches, open_splits
from preprocessing.errors import TrainingError, UsageError, require_at_least
from syncnet.data import WINDOW, ShardedDataset
from syncnet.sync_expert import EXPERT, JUDGE, SyncExpert
from training.engine import Engine
from training.losses import total
from training.options import parse_options
from training.progress import training_steps
from training.run import RESUMES, RunFolder, due, save_atomic
from wav2lip.generator.data import GeneratorBatch, SilenceSampler, collate, sample
from wav2lip.generator.losses import gradient_norms, masked_l1, reconstruction_losses, sync_expert_loss
from wav2lip.generator.recipe import GeneratorRecipe
from wav2lip.generator.train_state import (
    GeneratorTrainState,
    create_state,
    restore,
    save_generator,
    state_dict,
    update_ema,
)
from wav2lip.generator.validation import HeldOutEvaluation


@dataclass(frozen=True)
class GeneratorTrainOptions:
    """Options of a training run.

    Attributes:
        out: Run folder; a run that exists there is resumed.
        expert: Sync expert of the sync loss.
        judge: A second sync expert, used for evaluation only.
        val: Folder of clips of held-out people; default: the "val" split of CLIPS.
        init: Checkpoint of a generator to start from.
        workers: Data loading processes per device; 0: load in the training process.
        log_every: Steps between log lines.
        grid_every: Steps between sheets of generated faces.
        validate_every: Steps between validations, each of which saves a checkpoint.
        save_every: Steps between saved training states.
    """

    out: Path
    expert: Path = EXPERT
    judge: Path = JUDGE
    val: Path | None = None
    init: Path | None = None
    workers: int = 0
    log_every: int = 25
    grid_every: int = 250
    validate_every: int = 500
    save_every: int = 250

    def __post_init__(self) -> None:
        require_at_least(self, log_every=1, grid_every=1, validate_every=1, save_every=1, workers=0)


class NonFiniteLossError(TrainingError):
    """A loss or the gradient is not finite; `losses` holds the step's losses by name."""

    def __init__(self, message: str, losses: dict[str, Tensor]) -> None:
        super().__init__(message)
        self.losses = losses


def train_step(state: GeneratorTrainState, parts: Sequence[GeneratorBatch], measure: bool = False) -> dict[str, Tensor]:
    """Runs one training step.

    Args:
        state: the training state.
        parts: the step's windows in batches of equal size, for gradient accumulation.
        measure: whether to measure the norm of each loss's gradient.

    Returns:
        The losses, by the names of their weights, and other values to log.

    Raises:
        NonFiniteLossError: a loss or the gradient is not finite; the generator's weights are unchanged.
    """
    _prepare_step(state)
    sync_weight = torch.tensor(state.sync_weight)
    losses, generated = _generator_step(state, parts, measure)
    if adversary := state.active_adversary:
        losses |= adversary.train_critic(*_critic_inputs(parts[-1], generated), state.step)
    update_ema(state)
    state.step += 1
    return losses | {"sync_weight": sync_weight}


def _prepare_step(state: GeneratorTrainState) -> None:
    """Sets the learning rate and seeds torch; both depend only on the recipe, the step and the rank."""
    for group in state.optimizer.param_groups:
        group["lr"] = state.recipe.lr_at(state.step)
    drawn = np.random.SeedSequence((state.recipe.seed, state.step, state.fabric.global_rank)).generate_state(1)
    torch.manual_seed(int(drawn[0]))
    state.generator.train()


def _generator_step(
    state: GeneratorTrainState, parts: Sequence[GeneratorBatch], measure: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Steps the generator; returns the losses averaged over the parts and the last part's frames (5 B, 3, S, S)."""
    recipe, fabric = state.recipe, state.fabric
    state.optimizer.zero_grad()
    part_losses = []
    for batch in parts:
        last = batch is parts[-1]
        with fabric.no_backward_sync(state.forward, enabled=fabric.world_size > 1 and not last):
            losses, generated = _backward(state, batch, 1 / len(parts), measure and last)
        part_losses.append(losses)
    # Only the last part has the gradient norms.
    losses |= {name: torch.stack([part[name] for part in part_losses]).mean() for name in part_losses[0]}
    limit = recipe.clip_gradient or math.inf
    norm = fabric.clip_gradients(state.forward, state.optimizer, max_norm=limit, error_if_nonfinite=False)
    losses["gradient_norm"] = torch.as_tensor(norm).detach()
    state.switch.update(state.step, _require_finite(state, losses))
    state.optimizer.step()
    return losses, generated


def _backward(
    state: GeneratorTrainState, batch: GeneratorBatch, share: float, measure: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Accumulates the gradient of a batch, scaled by `share`; returns its losses and generated frames.

    The loss "plain" is the masked L1, which decides when the sync loss starts.
    """
    generated = state.forward(batch.mels, batch.faces)
    generated = generated.view_as(generated)  # Fabric guards its module's output against other backward passes
    losses, weights = weighted_losses(state, batch, generated)
    norms = gradient_norms(losses, weights, generated) if measure else {}
    loss = total(losses, weights)
    state.fabric.backward(share * loss)
    losses |= {"total": loss, "plain": masked_l1(generated, batch.target, state.config.mask_row)}
    metrics = {name: value.detach() for name, value in losses.items()}
    return metrics | {name: torch.tensor(norm) for name, norm in norms.items()}, generated.detach()


def weighted_losses(
    state: GeneratorTrainState, batch: GeneratorBatch, generated: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The losses of the generated frames of a batch, and this step's weights under the same names."""
    recipe = state.recipe
    weights = asdict(recipe.weights) | {"sync": state.sync_weight}
    losses = reconstruction_losses(generated, batch.target, state.weight, state.config.mask_row, recipe.weights)
    if state.sync_weight:
        losses["sync"] = _sync_loss(state, batch, generated)
    if adversary := state.active_adversary:
        losses |= adversary.generator_losses(*_critic_inputs(batch, generated), recipe.weights)
    return losses, {name: weights[name] for name in losses}


def _sync_loss(state: GeneratorTrainState, batch: GeneratorBatch, generated: Tensor) -> Tensor:
    right, down = divmod(state.step * 37 % 81, 9)  # cycles through all 81 shifts
    return sync_expert_loss(
        state.expert, _windows(generated), batch.window_mel, (right - 4, down - 4), state.recipe.sync, batch.silent,
        _windows(batch.target), _windows(batch.faces[:, 3:]),
    )  # fmt: skip


def _critic_inputs(batch: GeneratorBatch, generated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real windows, generated windows and the masked faces as condition."""
    return _windows(batch.target), _windows(generated), _windows(batch.faces[:, :3])


def _windows(frames: Tensor) -> Tensor:
    """(5 B, 3, S, S) to (B, 3, 5, S, S)."""
    return frames.unflatten(0, (-1, WINDOW)).transpose(1, 2)


def _require_finite(state: GeneratorTrainState, losses: dict[str, Tensor]) -> float:
    """Raises in all processes if a loss in any of them is not finite; returns the mean of "plain" over processes."""
    # With fp16 loss scaling an overflowing gradient is expected: the scaler skips the step.
    scaled = bool(state.fabric.strategy.precision.state_dict())
    metrics = {name: x for name, x in losses.items() if not (scaled and "gradient_norm" in name)}
    finite = torch.stack([torch.isfinite(x).to(losses["plain"]) for x in metrics.values()]).min()
    finite_share, plain = state.fabric.all_reduce(torch.stack((finite, losses["plain"])), reduce_op="mean")
    if not finite_share >= 1:
        bad = [f"{name} is {x.item()}" for name, x in metrics.items() if not torch.isfinite(x)]
        what = ", ".join(bad) or "a loss of another process is not finite"
        raise NonFiniteLossError(f"{what} at step {state.step}; try a lower learning rate", losses)
    return float(plain)


def validate_and_save(state: GeneratorTrainState, run: RunFolder, evaluation: HeldOutEvaluation | None) -> None:
    """Validates and writes the checkpoints, in the writing process only."""
    if not run.writes:
        return
    save_generator(state, run.folder / "generator.safetensors")
    if evaluation:
        values = evaluation.measure(state.average)
        run.log(state.step, **values)
        # Select by the judge once the sync loss is on, by L1 before.
        selection_key = (1, values["judge_own"]) if state.sync_weight else (0, -values["l1"])
        if selection_key > state.best:
            state.best = selection_key
            save_generator(state, run.folder / "best.safetensors")


def train(clips: Path, recipe: GeneratorRecipe, options: GeneratorTrainOptions, engine: Engine) -> None:
    """Trains until step `recipe.steps`; runs in each of the engine's processes.

    Raises:
        UsageError: the clips, the options or an existing run in the folder do not match.
        TrainingError: a loss, the gradient or a weight is not finite.
    """
    if recipe.windows_per_step % (engine.devices * recipe.accumulate):
        split = f"{recipe.accumulate} parts on {engine.devices} devices"
        raise UsageError(f"windows_per_step {recipe.windows_per_step} cannot be divided into {split}")
    train_clips, held_out = open_splits(clips, options.val, 3 * WINDOW)
    fabric = engine.launch()
    run = RunFolder(options.out, board=True, writes=fabric.is_global_zero)
    state = create_state(recipe, fabric, options.expert, options.init)
    if (saved := run.load_state(asdict(recipe))) is not None:
        restore(state, saved)
        run.truncate_log(state.step)
    run.write_config(asdict(recipe))
    judge = SyncExpert.load(options.judge, str(fabric.device))
    evaluation = HeldOutEvaluation(held_out, state.config, judge) if held_out and run.writes else None
    stream = iter(_window_loader(state, train_clips, options.workers))
    for _ in training_steps(range(state.step, recipe.steps), state.step, recipe.steps, run.writes):
        parts = [fabric.to_device(part) for part in islice(stream, recipe.accumulate)]
        try:
            metrics = train_step(state, parts, due(state.step + 1, options.log_every))
        except FloatingPointError as error:
            _dump_failed_step(state, run, parts, error.losses if isinstance(error, NonFiniteLossError) else {})
            raise
        _write_outputs(state, run, options, evaluation, metrics)


def _window_loader(state: GeneratorTrainState, clips: Sequence[Clip], workers: int) -> DataLoader:
    """Loads this process's share of each step's windows, in `accumulate` batches per step."""
    recipe, config, fabric = state.recipe, state.config, state.fabric
    draw = partial(
        sample, size=config.size, mask_row=config.mask_row, sampling=recipe.sampling, silence=SilenceSampler(clips)
    )  # fmt: skip
    size = recipe.windows_per_step // (fabric.world_size * recipe.accumulate)
    dataset = ShardedDataset(
        clips, speaker_weights(clips), draw, recipe.seed, size, fabric.global_rank, fabric.world_size
    )
    steps = range(state.step * recipe.accumulate, recipe.steps * recipe.accumulate)
    return batches(dataset, size, steps, workers=workers, collate=partial(collate, mask_row=config.mask_row))


def _write_outputs(
    state: GeneratorTrainState,
    run: RunFolder,
    options: GeneratorTrainOptions,
    evaluation: HeldOutEvaluation | None,
    metrics: dict[str, Tensor],
) -> None:
    """Logs, validates and saves after a step; the state comes last, so that a resumed run repeats lost output."""
    last = state.step == state.recipe.steps
    if due(state.step, options.log_every):
        values = {name: value.item() for name, value in metrics.items()}
        run.log(state.step, **values, lr=state.recipe.lr_at(state.step - 1))
    if evaluation and (due(state.step, options.grid_every) or last):
        evaluation.show(state.average, run.folder / "grid.png")
        run.add_image(state.step, "grid", run.folder / "grid.png")
    if due(state.step, options.validate_every) or last:
        validate_and_save(state, run, evaluation)
    if run.writes and (due(state.step, options.save_every) or last):
        run.save_state(state_dict(state))


def _dump_failed_step(
    state: GeneratorTrainState, run: RunFolder, parts: Sequence[GeneratorBatch], losses: dict[str, Tensor]
) -> None:
    """Saves the failing step, one file per process, as each has its own windows."""
    rank = state.fabric.global_rank
    content = {"step": state.step, "losses": losses, "batches": [vars(part) for part in parts]}
    save_atomic(content, run.folder / (f"dump-{rank}.pt" if rank else "dump.pt"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        args = sys.argv[1:] if argv is None else argv
        clips, parsed = parse_options(
            args, "python -m wav2lip.train", __doc__, GeneratorTrainOptions, GeneratorRecipe, Engine
        )
        options, recipe, engine = parsed
        train(clips, recipe, options, engine)

    return run_command("wav2lip.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
