"""Trains a lip motion model: `python -m wav2lip.lip_motion.train CLIPS --out runs/lip_motion`.

CLIPS is a folder of motion clips (python -m wav2lip.lip_motion.prepare). Short first trainings find recordings whose
video is early or late; then a sync expert is trained on shapes and audio; then the network, with the expert as one of
its losses. People of the split "val" who are not in "train" are held out.

Writes to the run folder: offsets.json, expert.safetensors, lip_motion.safetensors (averaged weights), best.safetensors
(16-bit, with the highest `metrics.score` on held-out people), config.json (the recipe, usable with --config),
log.jsonl, TensorBoard events, and state.pt, from which the same command resumes.
Exit code: 0 on success, 1 if training failed, 2 for wrong usage, 130 if interrupted.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # what follows takes seconds to import
    print("wav2lip.lip_motion.train: starting", file=sys.stderr, flush=True)

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import trange

from preprocessing.commands import run_command
from preprocessing.errors import UsageError, require_at_least
from syncnet.shape_expert import ShapeExpert
from training.engine import Engine
from training.options import parse_options
from training.progress import training_steps
from training.run import RESUMES, RunFolder, due
from wav2lip.lip_motion.data.clips import open_motion_clips
from wav2lip.lip_motion.data.corpus import Corpus
from wav2lip.lip_motion.data.training_set import WindowSampler
from wav2lip.lip_motion.model import LipMotionNet
from wav2lip.lip_motion.rest_map import RestMap
from wav2lip.lip_motion.training.expert_training import open_expert, save_expert, train_expert
from wav2lip.lip_motion.training.metrics import measure, predict, score
from wav2lip.lip_motion.training.offsets import combine_offsets, find_offsets
from wav2lip.lip_motion.training.recipe import LipMotionRecipe
from wav2lip.lip_motion.training.train_state import (
    LipMotionTrainState,
    restore,
    start,
    state_dict,
    train_step,
    trained_motion,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class LipMotionTrainOptions:
    """Options of a training run.

    Attributes:
        out: Run folder; an existing run in it is resumed.
        log_every: Steps between logged losses.
        validate_every: Steps between validations on held-out people and saved states.
    """

    out: Path
    log_every: int = 25
    validate_every: int = 50

    def __post_init__(self) -> None:
        require_at_least(self, log_every=1, validate_every=1)


def estimate_offsets(corpus: Corpus, recipe: LipMotionRecipe, fabric: Fabric, run: RunFolder) -> dict[str, float]:
    """Estimates the recordings' offsets in frames with briefly trained models; cached in offsets.json."""
    path = run.folder / "offsets.json"
    if path.is_file():
        return json.loads(path.read_text())
    offsets: dict[str, float] = {}
    for _ in range(recipe.repair_rounds):
        moved = corpus.shifted(offsets)
        motion = short_training(moved, recipe, fabric)
        items = moved.seen + moved.held_out
        predictions = [predict(motion, corpus.space, item, recipe.encoder, closing=False) for item in items]
        found = find_offsets(predictions, items, corpus.space)
        offsets = combine_offsets(offsets, found)
        values = {"clips_shifted": len(found), "shifted_in_all": len(offsets)}
        run.log(0, **values, **_held_out(motion, moved, recipe.encoder))
    if run.writes:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(offsets, indent=1) + "\n")
        os.replace(part, path)
    return offsets


def short_training(corpus: Corpus, recipe: LipMotionRecipe, fabric: Fabric) -> LipMotionNet:
    """Trains a network for `repair_steps` steps without an expert; identical in all processes."""
    short = replace(recipe, steps=recipe.repair_steps, weights=replace(recipe.weights, sync=0.0))
    state = start(short, corpus, fabric)
    sampler = WindowSampler(corpus.seen, short.network, short.window, short.power, short.seed)
    for step in trange(short.steps, desc="offsets", unit="step", disable=None):
        train_step(state, fabric.to_device(sampler.batch(step, short.batch)))
    return state.average.cpu()


def load_or_train_expert(corpus: Corpus, recipe: LipMotionRecipe, run: RunFolder) -> ShapeExpert | None:
    """The expert of the sync loss, from the run folder if it exists there; None if the loss is off."""
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
    """Validates and writes checkpoints and state; on rank 0 only."""
    if not run.writes:
        return
    values = _held_out(state.average, corpus, state.recipe.encoder)
    if values:
        run.log(state.step, **values)
    motion = trained_motion(state, dict(about), rest)
    motion.save(run.folder / "lip_motion.safetensors")
    if values and (value := score(values)) > state.best:
        state.best = value
        motion.save(run.folder / "best.safetensors", half=True)
    run.save_state(state_dict(state))


def _held_out(network: LipMotionNet, corpus: Corpus, encoder: str) -> dict[str, float]:
    return measure(corpus.held_out, corpus.space, lambda item: predict(network, corpus.space, item, encoder))


def train(clips: Path, recipe: LipMotionRecipe, flags: LipMotionTrainOptions, engine: Engine) -> None:
    """Runs all stages, up to `recipe.steps` steps, in each of the engine's processes.

    Raises:
        UsageError: the clips, the options or an existing run in the folder are incompatible.
        TrainingError: the loss is not finite.
    """
    if recipe.batch % engine.devices:
        raise UsageError(f"batch {recipe.batch} is not divisible by {engine.devices} devices")
    raw = Corpus.of(open_motion_clips(clips, recipe.encoder), recipe.network.components, recipe.seed)
    fabric = engine.launch()
    run = RunFolder(flags.out, board=True, writes=fabric.is_global_zero)
    saved = run.load_state(asdict(recipe))
    run.write_config(asdict(recipe))
    offsets = estimate_offsets(raw, recipe, fabric, run)
    corpus = raw.shifted(offsets)
    state, rest = start(recipe, corpus, fabric, load_or_train_expert(corpus, recipe, run)), corpus.rest_map()
    if saved:
        restore(state, saved)
        run.truncate_log(state.step)
    sampler = WindowSampler(corpus.seen, recipe.network, recipe.window, recipe.power, recipe.seed)
    mine = slice(fabric.global_rank, None, fabric.world_size)
    for step in training_steps(range(state.step, recipe.steps), state.step, recipe.steps, run.writes):
        batch = {name: values[mine] for name, values in sampler.batch(step, recipe.batch).items()}
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
