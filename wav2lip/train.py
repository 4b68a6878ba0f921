"""Trains a generator: `python -m wav2lip.train CLIPS --expert syncnet.safetensors --out runs/generator`.

It learns to reconstruct five frames of a clip from their upper parts, their sound and a reference from elsewhere in the
clip; the frozen expert's sync loss joins when reconstruction has settled, and a critic where the recipe has one.

The folder of the run receives generator.safetensors (the averaged weights), best.safetensors (as they were when a judge
liked the mouths of people it does not know best; before the sync loss takes part, at the least difference), grid.png,
config.json (the recipe, good for --config), log.jsonl, TensorBoard's events, and state.pt, from which the same command
goes on; dump.pt holds the step at which a number was none any more. Exit code: 0 when it has trained, 1 when it could
not go on, 2 for wrong usage, 130 when interrupted.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import trange

from preprocessing.commands import run_command
from preprocessing.dataset.clips import Clip, speaker_weights
from preprocessing.dataset.windows import batches, open_splits
from preprocessing.errors import TrainingError, UsageError
from syncnet.data import WINDOW, ProcessShare
from syncnet.sync_expert import EXPERT, JUDGE, SyncExpert
from training.engine import Engine
from training.losses import total
from training.options import parse_options
from training.run import RESUMES, RunFolder, due, save_atomic
from wav2lip.generator.data import GeneratorBatch, SilenceSampler, collate, sample
from wav2lip.generator.losses import expert_loss, gradient_norms, painting_losses, plain_l1, reconstruction_losses
from wav2lip.generator.model import picture_of
from wav2lip.generator.recipe import GeneratorRecipe
from wav2lip.generator.train_state import GeneratorTrainState, restore, save_generator, start, state_dict, update_ema
from wav2lip.generator.validation import HeldOutEvaluation


@dataclass(frozen=True)
class GeneratorTrainOptions:
    """The job.

    Attributes:
        out: The run's folder; an earlier run there goes on.
        expert: The expert of the sync loss, through whose ears the generator hears.
        judge: Another expert, which only measures.
        val: Folder of clips of other people; without it the split "val" of CLIPS is held out.
        init: A generator's checkpoint whose weights a new run starts from.
        workers: Processes a device that draw windows; 0: by the training one.
        log_every: Steps from one logged line to the next.
        grid_every: Steps from one sheet of generated faces to the next.
        validate_every: Steps from one check on the held-out people, and one checkpoint, to the next.
        save_every: Steps from one saved state to the next.
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
        every = dict.fromkeys(("log_every", "grid_every", "validate_every", "save_every"), 1)
        for name, least in (every | {"workers": 0}).items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be {least} or more, not {getattr(self, name)}")


class NonFiniteLossError(TrainingError):
    """A loss or the gradient is no number; `losses` by name."""

    def __init__(self, message: str, losses: dict[str, Tensor]) -> None:
        super().__init__(message)
        self.losses = losses


def train_step(state: GeneratorTrainState, parts: Sequence[GeneratorBatch], measure: bool = False) -> dict[str, Tensor]:
    """One step on a step's windows in parts of equal size.

    Args:
        measure: whether to measure each loss' gradient, too.

    Returns:
        The losses under the names of their weights, and what else is of interest.

    Raises:
        NonFiniteLossError: a loss or the gradient is no number; the generator's weights are as they were before.
    """
    _settle(state)
    sync_weight = torch.tensor(state.sync_weight)
    losses, picture = _descend(state, parts, measure)
    if adversary := state.present_adversary:
        losses |= adversary.train_critic(*_trio(parts[-1], picture), state.step)
    update_ema(state)
    state.step += 1
    return losses | {"sync_weight": sync_weight}


def _settle(state: GeneratorTrainState) -> None:
    """Learning rate and random numbers, which depend on the recipe, the step and the process alone."""
    for group in state.optimizer.param_groups:
        group["lr"] = state.recipe.lr_at(state.step)
    drawn = np.random.SeedSequence((state.recipe.seed, state.step, state.fabric.global_rank)).generate_state(1)
    torch.manual_seed(int(drawn[0]))
    state.generator.train()


def _descend(
    state: GeneratorTrainState, parts: Sequence[GeneratorBatch], measure: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """The generator's step: means of the losses over the parts, and the last part's pictures (5 B, 3, S, S)."""
    recipe, fabric = state.recipe, state.fabric
    state.optimizer.zero_grad()
    found = []
    for batch in parts:
        last = batch is parts[-1]
        with fabric.no_backward_sync(state.forward, enabled=fabric.world_size > 1 and not last):
            losses, picture = _backward(state, batch, 1 / len(parts), measure and last)
        found.append(losses)
    # The last part alone has the norms of the losses' gradients.
    losses |= {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
    limit = recipe.clip_gradient or math.inf
    norm = fabric.clip_gradients(state.forward, state.optimizer, max_norm=limit, error_if_nonfinite=False)
    losses["gradient_norm"] = torch.as_tensor(norm).detach()
    state.switch.update(state.step, _require_numbers(state, losses))
    state.optimizer.step()
    return losses, picture


def _backward(
    state: GeneratorTrainState, batch: GeneratorBatch, share: float, measure: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Adds `share` of a batch's gradient; its losses, with "plain", the difference that says when to trust the expert,
    and its pictures."""
    output = state.forward(batch.mels, batch.faces)
    output = output.view_as(output)  # Fabric lets nobody but its own backward pass touch what it returned
    picture = picture_of(output, batch.faces, state.config)
    losses, weights = weighted_losses(state, batch, output, picture)
    norms = gradient_norms(losses, weights, output) if measure else {}
    loss = total(losses, weights)
    state.fabric.backward(share * loss)
    losses |= {"total": loss, "plain": plain_l1(picture, batch.target, state.config.mask_row)}
    figures = {name: value.detach() for name, value in losses.items()}
    return figures | {name: torch.tensor(norm) for name, norm in norms.items()}, picture.detach()


def weighted_losses(
    state: GeneratorTrainState, batch: GeneratorBatch, output: Tensor, picture: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What the generator's output for a batch costs, and the weights in this step, under the same names."""
    recipe, config = state.recipe, state.config
    weights = asdict(recipe.weights) | {"sync": state.sync_weight}
    losses = reconstruction_losses(picture, batch.target, state.weight, config.mask_row, recipe.weights)
    if config.output == "warp":
        losses |= painting_losses(output, config, recipe.weights)
    if state.sync_weight:
        losses["sync"] = _sync_loss(state, batch, output)
    if adversary := state.present_adversary:
        losses |= adversary.generator_losses(*_trio(batch, picture), recipe.weights)
    return losses, {name: weights[name] for name in losses}


def _sync_loss(state: GeneratorTrainState, batch: GeneratorBatch, output: Tensor) -> Tensor:
    recipe = state.recipe
    picture = picture_of(output, batch.faces, state.config, paint_gradient=not recipe.sync_moves_only)
    right, down = divmod(state.step * 37 % 81, 9)  # each of the 81 places in turn
    return expert_loss(
        state.expert, _windows(picture), batch.window_mel, (right - 4, down - 4), recipe.sync, batch.silent,
        _windows(batch.target), _windows(batch.faces[:, 3:]),
    )  # fmt: skip


def _trio(batch: GeneratorBatch, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real windows, generated ones and the masked faces, for the adversary."""
    return _windows(batch.target), _windows(picture), _windows(batch.faces[:, :3])


def _windows(frames: Tensor) -> Tensor:
    """(5 B, 3, S, S) to (B, 3, 5, S, S)."""
    return frames.unflatten(0, (-1, WINDOW)).transpose(1, 2)


def _require_numbers(state: GeneratorTrainState, losses: dict[str, Tensor]) -> float:
    """Stops all processes where a loss of any of them is no number; returns the processes' mean of "plain"."""
    # At 16 bits a gradient that is too large is part of the search for a scale, and its step is skipped.
    scaled = bool(state.fabric.strategy.precision.state_dict())
    figures = {name: x for name, x in losses.items() if not (scaled and "gradient_norm" in name)}
    good = torch.stack([torch.isfinite(x).to(losses["plain"]) for x in figures.values()]).min()
    share, plain = state.fabric.all_reduce(torch.stack((good, losses["plain"])), reduce_op="mean")
    if not share >= 1:
        bad = [f"{name} is {x.item()}" for name, x in figures.items() if not torch.isfinite(x)]
        what = ", ".join(bad) or "a loss of another process is no number"
        raise NonFiniteLossError(f"{what} at step {state.step}; try a lower rate", losses)
    return float(plain)


def check(state: GeneratorTrainState, run: RunFolder, exam: HeldOutEvaluation | None) -> None:
    """Validates, and writes the checkpoints; by one of several processes."""
    if not run.writes:
        return
    save_generator(state, run.folder / "generator.safetensors")
    if exam:
        values = exam.measure(state.average)
        run.log(state.step, **values)
        # As long as there is no sync loss the judge has nothing to say; with it the judge decides.
        figure = (1, values["judge_own"]) if state.sync_weight else (0, -values["l1"])
        if figure > state.best:
            state.best = figure
            save_generator(state, run.folder / "best.safetensors")


def train(clips: Path, recipe: GeneratorRecipe, flags: GeneratorTrainOptions, engine: Engine) -> None:
    """Trains up to `recipe.steps` steps, in each of the engine's processes.

    Raises:
        UsageError: the clips, the options or an earlier run in the folder do not fit.
        TrainingError: a number is none any more.
    """
    if recipe.windows_per_step % (engine.devices * recipe.accumulate):
        given = f"{recipe.accumulate} parts on {engine.devices} devices"
        raise UsageError(f"windows_per_step {recipe.windows_per_step} cannot be shared out among {given}")
    seen, held_out = open_splits(clips, flags.val, 3 * WINDOW)
    fabric = engine.launch()
    run = RunFolder(flags.out, board=True, writes=fabric.is_global_zero)
    state = start(recipe, fabric, flags.expert, flags.init)
    if (saved := run.load_state(asdict(recipe))) is not None:
        restore(state, saved)
        run.truncate_log(state.step)
    run.write_config(asdict(recipe))
    judge = SyncExpert.load(flags.judge, str(fabric.device))
    exam = HeldOutEvaluation(held_out, state.config, judge) if held_out and run.writes else None
    stream = iter(_stream(state, seen, flags.workers))
    quiet = None if run.writes else True  # tqdm's None: a bar only on a terminal
    for _ in trange(state.step, recipe.steps, initial=state.step, total=recipe.steps, unit="step", disable=quiet):
        parts = [fabric.to_device(part) for part in islice(stream, recipe.accumulate)]
        try:
            figures = train_step(state, parts, due(state.step + 1, flags.log_every))
        except FloatingPointError as error:
            _dump(state, run, parts, error.losses if isinstance(error, NonFiniteLossError) else {})
            raise
        _report(state, run, flags, exam, figures)


def _stream(state: GeneratorTrainState, clips: Sequence[Clip], workers: int) -> DataLoader:
    """The process' part of each step's windows, `accumulate` batches a step."""
    recipe, config, fabric = state.recipe, state.config, state.fabric
    draw = partial(
        sample, size=config.size, mask_row=config.mask_row, sampling=recipe.sampling, rests=SilenceSampler(clips)
    )  # fmt: skip
    size = recipe.windows_per_step // (fabric.world_size * recipe.accumulate)
    share = ProcessShare(clips, speaker_weights(clips), draw, recipe.seed, size, fabric.global_rank, fabric.world_size)
    todo = range(state.step * recipe.accumulate, recipe.steps * recipe.accumulate)
    return batches(share, size, todo, workers=workers, collate=partial(collate, mask_row=config.mask_row))


def _report(
    state: GeneratorTrainState,
    run: RunFolder,
    flags: GeneratorTrainOptions,
    exam: HeldOutEvaluation | None,
    figures: dict[str, Tensor],
) -> None:
    """What is written after a step: the state last, so that whatever a killed run has lost is written again."""
    last = state.step == state.recipe.steps
    if due(state.step, flags.log_every):
        values = {name: value.item() for name, value in figures.items()}
        run.log(state.step, **values, lr=state.recipe.lr_at(state.step - 1))
    if exam and (due(state.step, flags.grid_every) or last):
        exam.show(state.average, run.folder / "grid.png")
        run.add_image(state.step, "grid", run.folder / "grid.png")
    if due(state.step, flags.validate_every) or last:
        check(state, run, exam)
    if run.writes and (due(state.step, flags.save_every) or last):
        run.save_state(state_dict(state))


def _dump(
    state: GeneratorTrainState, run: RunFolder, parts: Sequence[GeneratorBatch], losses: dict[str, Tensor]
) -> None:
    """Keeps the step that failed: a file a process, as each has windows of its own."""
    rank = state.fabric.global_rank
    content = {"step": state.step, "losses": losses, "batches": [vars(part) for part in parts]}
    save_atomic(content, run.folder / (f"dump-{rank}.pt" if rank else "dump.pt"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        given = sys.argv[1:] if argv is None else argv
        clips, options = parse_options(
            given, "python -m wav2lip.train", __doc__, GeneratorTrainOptions, GeneratorRecipe, Engine
        )
        flags, recipe, engine = options
        train(clips, recipe, flags, engine)

    return run_command("wav2lip.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
