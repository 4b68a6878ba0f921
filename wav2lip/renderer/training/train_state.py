"""Training state of the painter, and one training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from preprocessing.errors import TrainingError
from training.losses import total
from wav2lip.renderer.painter import MouthPainter
from wav2lip.renderer.training.adversary import MouthAdversary
from wav2lip.renderer.training.content import ContentLoss
from wav2lip.renderer.training.losses import condition, finished, reconstruction_losses, softened
from wav2lip.renderer.training.recipe import PainterRecipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class PainterTrainState:
    """Training state; `forward` is the network wrapped by Fabric. Without a critic or a content loss those are None."""

    recipe: PainterRecipe
    fabric: Fabric
    network: MouthPainter
    forward: nn.Module
    optimizer: Any
    average: MouthPainter
    adversary: MouthAdversary | None
    content: ContentLoss | None = None
    step: int = 0

    @property
    def others(self) -> int:
        """Other mouths that the painter gets on held-out people."""
        return self.recipe.others if self.recipe.network.code else 0


def start(recipe: PainterRecipe, fabric: Fabric) -> PainterTrainState:
    """Initializes training; identical in all processes."""
    torch.manual_seed(recipe.seed)
    network, average = MouthPainter(recipe.network), MouthPainter(recipe.network)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), recipe.lr, betas=(0.5, 0.99), weight_decay=1e-4)
    adversary = MouthAdversary(recipe.critic, fabric) if recipe.critic.objective != "none" else None
    forward, optimizer = fabric.setup(network, optimizer)
    average.to(fabric.device).eval().requires_grad_(False)
    content = ContentLoss().to(fabric.device) if recipe.weights.content else None
    return PainterTrainState(recipe, fabric, network, forward, optimizer, average, adversary, content)


def train_step(state: PainterTrainState, planes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Runs one step of painter and critic on a batch of `MouthSamples.batch`; returns the losses by name.

    Raises:
        TrainingError: the loss is not finite; the painter is unchanged.
    """
    recipe = state.recipe
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.lr * recipe.lr_at(state.step)
    # Random draws depend on seed, step and rank only, so a resumed run equals an uninterrupted one.
    drawn = np.random.SeedSequence((recipe.seed, state.step, state.fabric.global_rank)).generate_state(1)
    torch.manual_seed(int(drawn[0]))
    painted, share = state.forward(planes), recipe.fine_share(state.step)
    painted = painted._replace(image=softened(painted.image, share), paint=softened(painted.paint, share))
    planes = planes | {"target": softened(planes["target"], share)}
    losses = reconstruction_losses(painted, planes)
    image, masks, learned = finished(painted, planes), condition(planes), 2 * state.step >= recipe.critic.start
    if state.content:
        losses["content"] = state.content(image, planes["target"])
    if state.adversary and state.step >= recipe.critic.start:
        losses |= state.adversary.generator_losses(image, planes["target"], masks)
    _descend(state, total(losses, asdict(recipe.weights)))
    if state.adversary and learned:
        losses |= state.adversary.train(image, planes["target"], masks, state.step, recipe.lr_at(state.step))
    state.step += 1
    _average(state)
    return {name: value.detach() for name, value in losses.items()}


def _descend(state: PainterTrainState, loss: Tensor) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss is {loss.item()} at step {state.step}; try a lower learning rate")
    state.optimizer.zero_grad()
    state.fabric.backward(loss)
    if norm := state.recipe.clip_gradient:
        state.fabric.clip_gradients(state.forward, state.optimizer, max_norm=norm, error_if_nonfinite=False)
    state.optimizer.step()


def _average(state: PainterTrainState) -> None:
    """Updates the moving average of the weights, which follows quickly at first."""
    keep = min(state.recipe.ema, state.step / (state.step + 20))
    with torch.no_grad():
        for ours, theirs in zip(state.average.parameters(), state.network.parameters(), strict=True):
            ours.lerp_(theirs, 1 - keep)


def state_dict(state: PainterTrainState) -> dict[str, Any]:
    """The state for `restore`."""
    parts = {"network": state.network, "optimizer": state.optimizer, "average": state.average}
    saved: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    saved["adversary"] = state.adversary.state_dict() if state.adversary else {}
    return saved | {"step": state.step, "recipe": asdict(state.recipe)}


def restore(state: PainterTrainState, saved: Mapping[str, Any]) -> None:
    """Restores a saved state."""
    for name in ("network", "optimizer", "average"):
        getattr(state, name).load_state_dict(saved[name])
    if state.adversary:
        state.adversary.load_state_dict(saved["adversary"])
    state.step = saved["step"]
