"""Learns lip motion: `python -m wav2lip.lip_motion.train CLIPS --out runs/lip_motion`.

CLIPS is a folder of motion clips (python -m wav2lip.lip_motion.prepare). A first short training finds recordings whose
picture is early or late; an expert learns which shape belongs to which moment of the sound; then the network learns,
with that expert's opinion among its losses. People of the split "val" that are not in "train" are held out.

The folder of the run receives offsets.json, expert.safetensors, lip_motion.safetensors (averaged weights),
best.safetensors (16 bits, as they were when `metrics.score` on held-out people was highest), config.json (the recipe,
good for --config), log.jsonl, TensorBoard's events, and state.pt, from which the same command goes on.
Exit code: 0 when it has trained, 1 when it could not go on, 2 for wrong usage, 130 when interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import trange

from preprocessing.commands import run_command
from preprocessing.errors import UsageError
from syncnet.shape_expert import ShapeExpert
from training.engine import Engine
from training.options import parse_options
from training.run import RESUMES, RunFolder, due
from wav2lip.lip_motion.clips import open_motion_clips
from wav2lip.lip_motion.corpus import Corpus
from wav2lip.lip_motion.expert_training import open_expert, save_expert, train_expert
from wav2lip.lip_motion.metrics import measure, predict, score
from wav2lip.lip_motion.model import LipMotionNet
from wav2lip.lip_motion.offsets import combined, find_offsets
from wav2lip.lip_motion.recipe import LipMotionRecipe
from wav2lip.lip_motion.rest_map import RestMap
from wav2lip.lip_motion.train_state import LipMotionTrainState, restore, start, state_dict, train_step, trained_motion
from wav2lip.lip_motion.training_set import WindowDraw

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class LipMotionTrainOptions:
    """The job.

    Attributes:
        out: The run's folder; an earlier run there goes on.
        log_every: Steps from one logged loss to the next.
        validate_every: Steps from one check on the held-out people, and one saved state, to the next.
    """

    out: Path
    log_every: int = 25
    validate_every: int = 50

    def __post_init__(self) -> None:
        for name in ("log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, not {getattr(self, name)}")


def repair(corpus: Corpus, recipe: LipMotionRecipe, fabric: Fabric, run: RunFolder) -> dict[str, float]:
    """The recordings' own offsets, in frames, by models that were trained for a short time; kept in offsets.json."""
    path = run.folder / "offsets.json"
    if path.is_file():
        return json.loads(path.read_text())
    offsets: dict[str, float] = {}
    for _ in range(recipe.repair_rounds):
        moved = corpus.shifted(offsets)
        motion = short_training(moved, recipe, fabric)
        items = moved.seen + moved.held_out
        guesses = [predict(motion, corpus.space, item, recipe.encoder, closing=False) for item in items]
        found = find_offsets(guesses, items, corpus.space)
        offsets = combined(offsets, found)
        values = {"clips_shifted": len(found), "shifted_in_all": len(offsets)}
        run.log(0, **values, **_held_out(motion, moved, recipe.encoder))
    if run.writes:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(offsets, indent=1) + "\n")
        os.replace(part, path)
    return offsets


def short_training(corpus: Corpus, recipe: LipMotionRecipe, fabric: Fabric) -> LipMotionNet:
    """A network that was trained for `repair_steps` steps without an expert, alike in all processes."""
    short = replace(recipe, steps=recipe.repair_steps, weights=replace(recipe.weights, sync=0.0))
    state = start(short, corpus, fabric)
    draw = WindowDraw(corpus.seen, short.network, short.window, short.power, short.seed)
    for step in trange(short.steps, desc="offsets", unit="step", disable=None):
        train_step(state, fabric.to_device(draw.batch(step, short.batch)))
    return state.average.cpu()


def expert_of(corpus: Corpus, recipe: LipMotionRecipe, run: RunFolder) -> ShapeExpert | None:
    """The expert of the sync loss, of the run's folder if it is there."""
    if not recipe.weights.sync:
        return None
    path = run.folder / "expert.safetensors"
    if not path.is_file():
        expert = train_expert(corpus, recipe, recipe.encoder, recipe.seed, run)
        if run.writes:
            save_expert(expert, recipe.encoder, recipe.expert_steps, path)
        return expert
    return open_expert(path)[0]


def check(
    state: LipMotionTrainState, run: RunFolder, corpus: Corpus, about: dict[str, float | int], rest: RestMap | None
) -> None:
    """Validates, and writes the checkpoints and the state; by one of several processes."""
    if not run.writes:
        return
    values = _held_out(state.average, corpus, state.recipe.encoder)
    if values:
        run.log(state.step, **values)
    motion = trained_motion(state, dict(about), rest)
    motion.save(run.folder / "lip_motion.safetensors")
    if values and (worth := score(values)) > state.best:
        state.best = worth
        motion.save(run.folder / "best.safetensors", half=True)
    run.save_state(state_dict(state))


def _held_out(network: LipMotionNet, corpus: Corpus, encoder: str) -> dict[str, float]:
    return measure(corpus.held_out, corpus.space, lambda item: predict(network, corpus.space, item, encoder))


def train(clips: Path, recipe: LipMotionRecipe, flags: LipMotionTrainOptions, engine: Engine) -> None:
    """All stages, up to `recipe.steps` steps, in each of the engine's processes.

    Raises:
        UsageError: the clips, the options or an earlier run in the folder do not fit.
        TrainingError: the loss is no number any more.
    """
    if recipe.batch % engine.devices:
        raise UsageError(f"batch {recipe.batch} cannot be shared out among {engine.devices} devices")
    raw = Corpus.of(open_motion_clips(clips, recipe.encoder), recipe.network.components, recipe.seed)
    fabric = engine.launch()
    run = RunFolder(flags.out, board=True, writes=fabric.is_global_zero)
    saved = run.load_state(asdict(recipe))
    run.write_config(asdict(recipe))
    offsets = repair(raw, recipe, fabric, run)
    corpus = raw.shifted(offsets)
    state, rest = start(recipe, corpus, fabric, expert_of(corpus, recipe, run)), corpus.rest_map()
    if saved:
        restore(state, saved)
        run.truncate_log(state.step)
    draw = WindowDraw(corpus.seen, recipe.network, recipe.window, recipe.power, recipe.seed)
    mine = slice(fabric.global_rank, None, fabric.world_size)
    quiet = None if run.writes else True  # tqdm's None: a bar only on a terminal
    for step in trange(state.step, recipe.steps, initial=state.step, total=recipe.steps, unit="step", disable=quiet):
        batch = {name: values[mine] for name, values in draw.batch(step, recipe.batch).items()}
        losses = train_step(state, fabric.to_device(batch))
        if due(state.step, flags.log_every):
            run.log(state.step, **{name: value.item() for name, value in losses.items()})
        if due(state.step, flags.validate_every) or state.step == recipe.steps:
            check(state, run, corpus, corpus.about(offsets), rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        given = sys.argv[1:] if argv is None else argv
        kinds = (LipMotionTrainOptions, LipMotionRecipe, Engine)
        clips, options = parse_options(given, "python -m wav2lip.lip_motion.train", __doc__, *kinds)
        flags, recipe, engine = options
        train(clips, recipe, flags, engine)

    return run_command("wav2lip.lip_motion.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
