"""Trains a generator: `python -m wav2lip.train CLIPS --expert syncnet.safetensors --out runs/generator`.

The plain recipe: reconstruct five frames of a clip from their upper halves, their sound and one reference frame from
elsewhere in the clip; the frozen expert's sync loss joins when reconstruction has settled.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from preprocessing.audio import AudioConfig
from preprocessing.augmentation import Augmentation
from preprocessing.clips import Clip, speaker_weights
from preprocessing.crops import CropGeometry
from preprocessing.windows import Draws, batches, open_splits
from syncnet.data import WINDOW
from syncnet.expert import Expert
from training.checkpoint import Checkpoint
from training.run import Run, due
from wav2lip.data import Window, sample
from wav2lip.losses import expert_loss, generator_losses, mouth_weight, plain_l1, total
from wav2lip.model import ExpertHearing, Generator, GeneratorConfig, mask_and_stack, render, split_fields

CONFIG = GeneratorConfig(width=8, size=96, mask_row=40, output="warp", hearing="expert")
WEIGHTS = {"l1": 1.0, "gradient": 0.3, "smooth": 0.02, "paint": 0.02, "sync": 0.2}
SYNC_FROM, SYNC_FULL = 50, 250  # steps between which the sync loss is faded in
WINDOWS_A_STEP = 3


@dataclass
class State:
    """Everything that lives while training."""

    generator: Generator
    average: Generator
    expert: Expert
    optimizer: torch.optim.Optimizer
    weight: Tensor
    step: int = 0


@dataclass
class Batch:
    """Tensors of B windows, flattened to 5 B frames but for `window_mel` (B, 1, 80, 16)."""

    faces: Tensor
    target: Tensor
    mels: Tensor
    window_mel: Tensor


def collate(windows: list[Window], mask_row: int) -> Batch:
    """Windows to tensors."""
    target = np.concatenate([w.target for w in windows])
    faces = mask_and_stack(target, np.concatenate([w.reference for w in windows]), mask_row)
    whole = target.transpose(0, 3, 1, 2).astype(np.float32) / 255
    mels, window_mel = np.concatenate([w.mels for w in windows]), np.stack([w.window_mel for w in windows])
    return Batch(*(torch.from_numpy(x) for x in (faces, whole, mels, window_mel)))


def train_step(state: State, batch: Batch, steps: int, rate: float) -> dict[str, Tensor]:
    """One step; returns the losses under the names of their weights."""
    config = state.generator.config
    for group in state.optimizer.param_groups:
        warm = min(1.0, state.step / 100)
        group["lr"] = rate * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, state.step / steps))))
    fields = state.generator(batch.mels, batch.faces)
    flow, _, mix = split_fields(fields, config)
    picture = render(fields, batch.faces, config)
    losses = generator_losses(picture, batch.target, flow, mix, state.weight, config.mask_row)
    fade = min(1.0, max(0.0, (state.step - SYNC_FROM) / (SYNC_FULL - SYNC_FROM)))
    # The expert may move the lips but not paint: a generator that may paint for it paints dots, not mouths.
    moved = render(fields, batch.faces, config, paint_gradient=False).unflatten(0, (-1, WINDOW)).transpose(1, 2)
    right, down = divmod(state.step * 37 % 81, 9)  # each of the 81 places in turn
    shift = (right - 4, down - 4)
    losses["sync"] = expert_loss(state.expert, moved, batch.window_mel, shift) if fade else torch.zeros(())
    loss = total(losses, WEIGHTS | {"sync": WEIGHTS["sync"] * fade})
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} at step {state.step}")
    state.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.generator.parameters(), 1.0)
    state.optimizer.step()
    _follow(state)
    return {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def _follow(state: State) -> None:
    """Moves the averaged generator, which is the one that is kept, towards the trained one."""
    decay = min(0.998, (1 + state.step) / (10 + state.step))
    for ours, theirs in zip(state.average.state_dict().values(), state.generator.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, 1 - decay)
        else:
            ours.copy_(theirs)


@torch.inference_mode()
def validate(state: State, clips: list[Clip], picture: Path | None = None) -> dict[str, float]:
    """Mean absolute difference of the masked rows on held-out clips, always the same windows.

    `l1`: with the frames' own sound; `swapped`: with the sound of the next window of the list; `copy`: the reference
    as it is. `own_sound_better`: share of windows in which the own sound gives the smaller difference.
    """
    config, model = state.average.config, state.average.eval()
    seeds = [np.random.default_rng((7, i)) for i in range(len(clips))]
    draw = partial(sample, size=config.size, mask_row=config.mask_row, augmentation=Augmentation.none())
    windows = [draw(clip, rng) for clip, rng in zip(clips, seeds, strict=True)]
    ours: list[float] = []
    swapped: list[float] = []
    copied: list[float] = []
    sheet: list[np.ndarray] = []
    for index, window in enumerate(windows):
        batch = collate([window], config.mask_row)
        other = torch.from_numpy(windows[(index + 1) % len(windows)].mels)
        made = [render(model(mels, batch.faces), batch.faces, config) for mels in (batch.mels, other)]
        for values, image in zip((ours, swapped, copied), (*made, batch.faces[:, 3:]), strict=True):
            values.append(plain_l1(image, batch.target, config.mask_row).item())
        if index % max(1, len(windows) // 12) == 0:
            sheet.append(_row(batch, made[0]))
    if picture:
        cv2.imwrite(str(picture), np.vstack(sheet))
    better = np.mean(np.array(ours) < np.array(swapped))
    means = {name: float(np.mean(v)) for name, v in (("l1", ours), ("swapped", swapped), ("copy", copied))}
    return means | {"own_sound_better": float(better)}


def _row(batch: Batch, made: Tensor) -> np.ndarray:
    """Reference, then five generated frames over five real ones."""
    rows = [torch.cat((batch.faces[:1, 3:], x)).permute(2, 0, 3, 1).flatten(1, 2) for x in (made, batch.target)]
    return (torch.cat(rows) * 255).round().to(torch.uint8).numpy()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m wav2lip.train", description=__doc__)
    parser.add_argument("clips", type=Path, help="folder of clips made by preprocessing.build")
    parser.add_argument("--expert", type=Path, required=True, help="syncnet.safetensors of syncnet.train")
    parser.add_argument("--val", type=Path, help="folder of clips of other people (default: the split val of CLIPS)")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; an earlier run there goes on")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate (default: 5e-4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check-every", type=int, default=250)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw windows (default: 0, by this one)")
    args = parser.parse_args(argv)
    try:
        train(
            args.clips, args.val, args.expert, args.out, args.steps, args.rate, args.seed, args.check_every,
            args.workers,
        )  # fmt: skip
    except ValueError as error:
        parser.error(str(error).splitlines()[-1].removeprefix("ValueError: "))  # a worker's comes with its traceback
    return 0


def start(expert_path: Path, seed: int, rate: float, config: GeneratorConfig = CONFIG) -> State:
    """A new state: the generator hears through the expert's audio tower."""
    torch.manual_seed(seed)
    expert = Expert.load(expert_path)
    config = replace(config, hearing_norm=expert.network.config["norm"])
    generator = Generator(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs
    assert isinstance(generator.audio_encoder, ExpertHearing)
    generator.audio_encoder.tower.load_state_dict(expert.network.audio_encoder.state_dict())
    trained = [p for p in generator.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = copy.deepcopy(generator).requires_grad_(False)
    return State(generator, average, expert, optimizer, mouth_weight(config.size, config.mask_row))


def train(
    clip_folder: Path, val: Path | None, expert: Path, out: Path, steps: int, rate: float, seed: int, check_every: int,
    workers: int = 0,
) -> None:  # fmt: skip
    """Trains for `steps` steps and writes `generator.safetensors` into `out` at every check."""
    clips, held_out = open_splits(clip_folder, val, 3 * WINDOW)
    state, run = start(expert, seed, rate), Run(out)
    if (saved := run.load_state()) is not None:
        state.step = saved["step"]
        for name in ("generator", "average", "optimizer"):
            getattr(state, name).load_state_dict(saved[name])
    config = state.generator.config
    draws = Draws(clips, speaker_weights(clips), partial(sample, size=config.size, mask_row=config.mask_row), seed)
    gather, todo = partial(collate, mask_row=config.mask_row), range(state.step, steps)
    for batch in batches(draws, WINDOWS_A_STEP, todo, workers=workers, collate=gather):
        state.step += 1
        state.generator.train()
        losses = train_step(state, batch, steps, rate)
        if due(state.step, 25):
            run.log(state.step, **{name: value.item() for name, value in losses.items()})
        if due(state.step, check_every) or state.step == steps:
            if held_out:
                run.log(state.step, **validate(state, held_out, out / "held_out.png"))
            _save(state, run)


def _save(state: State, run: Run) -> None:
    parts = {name: getattr(state, name).state_dict() for name in ("generator", "average", "optimizer")}
    run.save_state({"step": state.step} | parts)
    config = state.generator.config
    Checkpoint(
        "generator", asdict(config), asdict(AudioConfig()), asdict(CropGeometry("points", config.size)),
        state.average.state_dict(), state.step,
    ).save(run.folder / "generator.safetensors", half=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
