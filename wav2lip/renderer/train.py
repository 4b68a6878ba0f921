"""Trains the mouth painter: `python -m wav2lip.renderer.train SAMPLES --out runs/renderer`.

SAMPLES is a folder of training samples (python -m wav2lip.renderer.prepare). Writes to the run folder:
renderer.safetensors (averaged weights, 16-bit), config.json (the recipe, usable with --config), log.jsonl with figures
on held-out people, sheets of their mouths (as it was, painted, real), TensorBoard events, and state.pt, from which the
same command resumes.
Exit code: 0 on success, 1 if training failed, 2 for wrong usage, 130 if interrupted.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # what follows takes seconds to import
    print("wav2lip.renderer.train: starting", file=sys.stderr, flush=True)

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from preprocessing.commands import run_command
from preprocessing.errors import UsageError
from training.engine import Engine
from training.options import parse_options
from training.progress import training_steps
from training.run import RESUMES, RunFolder, due
from wav2lip.renderer.training.dataset import MouthSamples, sheet
from wav2lip.renderer.training.losses import finished
from wav2lip.renderer.training.metrics import measure
from wav2lip.renderer.training.recipe import PainterRecipe
from wav2lip.renderer.training.train_state import PainterTrainState, restore, start, state_dict, train_step

SHEET = 14  # mouths of each kind in a sheet


@dataclass(frozen=True)
class PainterTrainOptions:
    """Options of a training run.

    Attributes:
        out: Run folder; an existing run in it is resumed.
        log_every: Steps between logged losses.
        validate_every: Steps between validations on held-out people and saved states.
    """

    out: Path
    log_every: int = 25
    validate_every: int = 250

    def __post_init__(self) -> None:
        for name in ("log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, not {getattr(self, name)}")


def check(state: PainterTrainState, run: RunFolder, held_out: MouthSamples, seen: MouthSamples) -> None:
    """Validates and writes weights, a sheet and the state; on rank 0 only."""
    if not run.writes:
        return
    critic = state.adversary.network if state.adversary else None
    run.log(state.step, **measure(state.average, held_out, critic, state.others))
    picture = run.folder / f"sheet-{state.step:06d}.png"
    sheet(_sheet_rows(state, held_out), picture)
    run.add_image(state.step, "held-out mouths", picture)
    about = {"people": len(np.unique(seen.people)), "samples": len(seen)}
    state.average.checkpoint(about, state.step).save(run.folder / "renderer.safetensors", half=True)
    run.save_state(state_dict(state))


@torch.no_grad()
def _sheet_rows(state: PainterTrainState, samples: MouthSamples) -> list[torch.Tensor]:
    rows = []
    for case in np.unique(samples.cases):
        found = np.flatnonzero(samples.cases == case)
        planes = samples.batch(
            found[np.linspace(0, len(found) - 1, min(SHEET, len(found))).astype(int)], others=state.others
        )
        rows += [planes["composite"], finished(state.average(planes), planes), planes["target"]]
    width = min(len(row) for row in rows)
    return [row[:width] for row in rows]


def train(samples: Path, recipe: PainterRecipe, flags: PainterTrainOptions, engine: Engine) -> None:
    """Trains up to `recipe.steps` steps, in each of the engine's processes.

    Raises:
        UsageError: the samples, the options or an existing run in the folder are incompatible.
        TrainingError: the loss is not finite.
    """
    if recipe.batch % engine.devices:
        raise UsageError(f"batch {recipe.batch} is not divisible by {engine.devices} devices")
    seen, held_out = MouthSamples.open(samples / "train"), MouthSamples.open(samples / "val")
    fabric = engine.launch()
    run = RunFolder(flags.out, board=True, writes=fabric.is_global_zero)
    saved = run.load_state(asdict(recipe))
    run.write_config(asdict(recipe))
    state = start(recipe, fabric)
    if saved:
        restore(state, saved)
        run.truncate_log(state.step)
    for step in training_steps(range(state.step, recipe.steps), state.step, recipe.steps, shown=run.writes):
        rows = seen.rows(step, recipe.batch, recipe.seed)[fabric.global_rank :: fabric.world_size]
        rng = np.random.default_rng((recipe.seed, step, fabric.global_rank))
        planes = seen.batch(rows, rng, int(rng.integers(1, recipe.others + 1)) if recipe.network.code else 0)
        losses = train_step(state, fabric.to_device(planes))
        if due(state.step, flags.log_every):
            run.log(state.step, **{name: value.item() for name, value in losses.items()})
        if due(state.step, flags.validate_every) or state.step == recipe.steps:
            check(state, run, held_out, seen)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        given = sys.argv[1:] if argv is None else argv
        kinds = (PainterTrainOptions, PainterRecipe, Engine)
        samples, options = parse_options(given, "python -m wav2lip.renderer.train", __doc__, *kinds)
        flags, recipe, engine = options
        train(samples, recipe, flags, engine)

    return run_command("wav2lip.renderer.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
