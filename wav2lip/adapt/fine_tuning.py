"""Fine-tunes the layers of a generator that draw, with the trainer's losses and without its engine."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing.dataset.clips import Clip
from preprocessing.dataset.windows import WindowDataset, batches
from preprocessing.errors import TrainingError
from syncnet.sync_expert import SyncExpert
from training.losses import total
from wav2lip.generator.data import AUGMENTATION, GeneratorBatch, Sampling, SilenceSampler, collate, sample
from wav2lip.generator.losses import LossWeights, SyncSwitch, masked_l1, mouth_weight
from wav2lip.generator.model import Generator, GeneratorConfig, frames_from_output
from wav2lip.generator.recipe import GeneratorRecipe, build_optimizer
from wav2lip.generator.train_state import GeneratorTrainState, update_ema
from wav2lip.generator.unet import AnyGenerator
from wav2lip.train import weighted_losses

WINDOWS = 8  # of the clips on which the change is measured
# Faces are not mirrored: this one's two sides differ. Light and colours do change, or else the few frames' mean colours
# are learnt by heart and painted over the face like a haze; the higher price of painting keeps that away, too.
SAMPLING = Sampling(augmentation=replace(AUGMENTATION, flip=0.0))
WEIGHTS = LossWeights(paint=0.1, sync=0.05)


def tuning_recipe(config: GeneratorConfig, steps: int, lr: float, seed: int) -> GeneratorRecipe:
    """The trainer's, for a generator that can speak already: the whole sync loss from the first step, and no decay.

    Raises:
        UsageError: a number is out of range.
    """
    weights = WEIGHTS if config.output == "warp" else replace(WEIGHTS, smooth=0, paint=0)
    return GeneratorRecipe(
        config, SAMPLING, weights, sync_start=0, sync_ramp=0, lr=lr, warmup_steps=min(20, steps // 4), weight_decay=0.0,
        ema=0.98, steps=steps, seed=seed,
    )  # fmt: skip


def drawing_layers(generator: AnyGenerator) -> list[nn.Module]:
    """The decoder and the output: what is tuned. How the face is seen and the sound is heard stays."""
    if isinstance(generator, Generator):
        flow = [generator.flow_block] if generator.config.output == "warp" else []
        return [generator.face_decoder_blocks, generator.output_block, *flow]
    return [generator.middle, generator.up, generator.flow, generator.paint]


def start_tuning(recipe: GeneratorRecipe, generator: AnyGenerator, expert: SyncExpert) -> GeneratorTrainState:
    """A trainer's state without its engine, of a generator in evaluation mode, which it stays in.

    A batch norm's statistics of many people are better than those of a few frames of one.
    """
    generator.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(generator)
    for layers in drawing_layers(generator):
        layers.requires_grad_(True)
    config, switch = generator.config, SyncSwitch(recipe.sync_start, recipe.sync_ramp)
    weight = mouth_weight(config.size, config.mask_row, recipe.weights.mouth)
    optimizer = build_optimizer(recipe, generator)
    fabric: None = None  # nothing that is done here with the state asks for it
    return GeneratorTrainState(recipe, fabric, generator, generator, average, expert, optimizer, weight, switch, None)  # type: ignore[arg-type]


def tuning_batches(state: GeneratorTrainState, clips: Sequence[Clip]) -> Iterable[GeneratorBatch]:
    """The batches of all steps; longer clips are drawn more often."""
    recipe, config = state.recipe, state.config
    draw = partial(
        sample, size=config.size, mask_row=config.mask_row, sampling=recipe.sampling, silence=SilenceSampler(clips)
    )  # fmt: skip
    draws = WindowDataset(clips, np.array([clip.frames for clip in clips]), draw, recipe.seed)
    whole = partial(collate, mask_row=config.mask_row)
    return batches(draws, recipe.windows_per_step, range(recipe.steps), collate=whole)


def tuning_step(state: GeneratorTrainState, batch: GeneratorBatch) -> dict[str, Tensor]:
    """One step; its losses.

    Raises:
        TrainingError: the loss or its gradient is no number; the weights are as they were.
    """
    recipe, generator = state.recipe, state.generator
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.lr_at(state.step)
    state.optimizer.zero_grad()
    output = generator(batch.mels, batch.faces)
    losses, weights = weighted_losses(state, batch, output, frames_from_output(output, batch.faces, state.config))
    loss = total(losses, weights)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(generator.parameters(), recipe.clip_gradient)
    if not torch.isfinite(loss + norm):
        raise TrainingError(f"the loss is {loss.item()}, its gradient {norm.item()} at step {state.step}")
    state.optimizer.step()
    update_ema(state)
    state.step += 1
    return losses


def unaugmented(clips: Sequence[Clip], config: GeneratorConfig) -> GeneratorBatch:
    """`WINDOWS` windows as they are, spread over the clips; always the same."""
    chosen = [clips[k * len(clips) // WINDOWS] for k in range(WINDOWS)]
    drawn = [
        sample(clip, np.random.default_rng((7, k)), config.size, config.mask_row, Sampling.plain())
        for k, clip in enumerate(chosen)
    ]
    return collate(drawn, config.mask_row)


@torch.inference_mode()
def difference(generator: AnyGenerator, batch: GeneratorBatch) -> float:
    """Mean absolute difference of the masked rows, 0 to 1."""
    picture = frames_from_output(generator(batch.mels, batch.faces), batch.faces, generator.config)
    return float(masked_l1(picture, batch.target, generator.config.mask_row))
