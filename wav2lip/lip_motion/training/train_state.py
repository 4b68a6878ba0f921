"""Training state of lip motion, and one training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing.errors import TrainingError
from syncnet.shape_expert import ShapeExpert
from training.losses import total
from wav2lip.lip_motion.checkpoint import TrainedMotion
from wav2lip.lip_motion.data.corpus import Corpus
from wav2lip.lip_motion.data.training_set import center_rows
from wav2lip.lip_motion.model import LipMotionNet
from wav2lip.lip_motion.shape_space import ShapeSpace
from wav2lip.lip_motion.training.losses import Axes, motion_losses
from wav2lip.lip_motion.training.recipe import LipMotionRecipe
from wav2lip.lip_motion.training.styles import StyledMotion

if TYPE_CHECKING:
    from lightning_fabric import Fabric

EMA_START = 0.2  # fraction of the steps after which weights are averaged; before, they are copied


@dataclass
class LipMotionTrainState:
    """Training state; `forward` is the network with its people's styles, wrapped by Fabric."""

    recipe: LipMotionRecipe
    fabric: Fabric
    network: LipMotionNet
    styled: StyledMotion
    forward: nn.Module
    optimizer: Any
    average: LipMotionNet
    space: ShapeSpace
    axes: Axes
    expert: ShapeExpert | None = None
    step: int = 0
    best: float = -1.0  # score on held-out clips


def start(
    recipe: LipMotionRecipe, corpus: Corpus, fabric: Fabric, expert: ShapeExpert | None = None
) -> LipMotionTrainState:
    """Initializes training; identical in all processes."""
    torch.manual_seed(recipe.seed)
    rows = corpus.feature_rows(recipe.encoder)
    config = replace(recipe.network, features=rows.shape[1], components=corpus.space.components)
    network, average = LipMotionNet(config), LipMotionNet(config)
    network.tower.normalize(rows)
    network.scale.copy_(torch.from_numpy(corpus.space.deviations))
    average.load_state_dict(network.state_dict())
    styled = StyledMotion(network, len(corpus.people), recipe.style_dropout)
    groups = [
        {"params": network.parameters(), "weight_decay": recipe.weight_decay},
        {"params": styled.styles.parameters(), "weight_decay": recipe.style_decay},
    ]
    optimizer = torch.optim.AdamW(groups, recipe.lr, betas=(0.9, 0.98))
    forward, optimizer = fabric.setup(styled, optimizer)
    axes = Axes(*(torch.from_numpy(axis).to(fabric.device) for axis in (corpus.space.opening, corpus.space.width)))
    if expert is not None:
        expert = expert.to(fabric.device)
    average.eval()
    return LipMotionTrainState(
        recipe, fabric, network, styled, forward, optimizer, average, corpus.space, axes, expert
    )  # fmt: skip


def train_step(state: LipMotionTrainState, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Runs one training step on a batch of `WindowSampler.batch`; returns the losses by name.

    Raises:
        TrainingError: the loss is not finite; the network is unchanged.
    """
    recipe, fabric = state.recipe, state.fabric
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.lr_at(state.step)
    # Dropout depends on seed, step and rank only, so a resumed run equals an uninterrupted one.
    drawn = np.random.SeedSequence((recipe.seed, state.step, fabric.global_rank)).generate_state(1)
    torch.manual_seed(int(drawn[0]))
    state.network.train()
    predicted, logits = state.forward(batch[recipe.encoder], batch["person"])
    features = center_rows(batch[recipe.encoder], recipe.network, recipe.window)
    losses = motion_losses(predicted, logits, batch, state.axes, state.expert, features)
    loss = total(losses, recipe.weights)
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss is {loss.item()} at step {state.step}; try a lower learning rate")
    state.optimizer.zero_grad()
    fabric.backward(loss)
    if recipe.clip_gradient:
        fabric.clip_gradients(state.forward, state.optimizer, max_norm=recipe.clip_gradient, error_if_nonfinite=False)
    state.optimizer.step()
    state.step += 1
    _average(state)
    return {name: value.detach() for name, value in losses.items()}


def _average(state: LipMotionTrainState) -> None:
    """Updates the moving average of the weights."""
    keep = state.recipe.ema if state.step > EMA_START * state.recipe.steps else 0.0
    with torch.no_grad():
        for ours, theirs in zip(state.average.state_dict().values(), state.network.state_dict().values(), strict=True):
            ours.lerp_(theirs.to(ours.device), 1 - keep)


def trained_motion(state: LipMotionTrainState, about: dict[str, Any], rest: Any = None) -> TrainedMotion:
    """The averaged network as a `TrainedMotion`."""
    return TrainedMotion(state.recipe.encoder, state.average, state.space, rest, about, state.step)


def state_dict(state: LipMotionTrainState) -> dict[str, Any]:
    """The state for `restore`."""
    parts = {"styled": state.styled, "optimizer": state.optimizer, "average": state.average}
    saved: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    return saved | {"step": state.step, "best": state.best, "recipe": asdict(state.recipe)}


def restore(state: LipMotionTrainState, saved: Mapping[str, Any]) -> None:
    """Restores a saved state."""
    for name in ("styled", "optimizer", "average"):
        getattr(state, name).load_state_dict(saved[name])
    state.step, state.best = saved["step"], saved["best"]
