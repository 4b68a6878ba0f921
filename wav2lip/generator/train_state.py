"""Training state of a generator: creation, EMA, saving and restoring."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from preprocessing.errors import MediaError, TrainingError, UsageError, display_path
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig
from syncnet.sync_expert import SyncExpert
from training.checkpoint import Checkpoint
from wav2lip.gan.adversary import Adversary
from wav2lip.generator.checkpoints import load_generator
from wav2lip.generator.losses import SyncSwitch, mouth_weight
from wav2lip.generator.model import Generator, GeneratorConfig
from wav2lip.generator.recipe import GeneratorRecipe, build_optimizer

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class GeneratorTrainState:
    """The state of a training run.

    Attributes:
        recipe: the recipe.
        fabric: launched.
        generator: the network being trained.
        forward: the network wrapped by Fabric.
        average: the network with EMA weights, which is saved.
        expert: the frozen sync expert.
        optimizer: the generator's optimizer, wrapped by Fabric.
        weight: pixel weights of the L1 loss, see `mouth_weight`.
        switch: decides when the sync loss starts.
        adversary: None without a critic.
        step: number of steps done.
        best: selection key of the best generator: (1 with the sync loss, 0 before it, then the metric).
    """

    recipe: GeneratorRecipe
    fabric: Fabric
    generator: Generator
    forward: Any
    average: Generator
    expert: SyncExpert
    optimizer: Any
    weight: Tensor
    switch: SyncSwitch
    adversary: Adversary | None
    step: int = 0
    best: tuple[int, float] = (-1, 0.0)

    @property
    def config(self) -> GeneratorConfig:
        """The generator's configuration."""
        return self.generator.config

    @property
    def sync_weight(self) -> float:
        """The weight of the sync loss in the next step."""
        weight = self.recipe.weights.sync
        return weight * self.switch.weight(self.step) if weight else 0.0

    @property
    def active_adversary(self) -> Adversary | None:
        """The adversary, or None if it does not take part in the next step."""
        return self.adversary if self.step >= self.recipe.adversary.start else None


def create_state(
    recipe: GeneratorRecipe, fabric: Fabric, expert_path: Path, init: Path | None = None
) -> GeneratorTrainState:
    """Creates a new training state, identical in all processes.

    Raises:
        UsageError: the expert cannot be loaded, or `init` is not a generator that matches the recipe.
    """
    torch.manual_seed(recipe.seed)
    expert = SyncExpert.load(expert_path, str(fabric.device))
    config = recipe.generator
    generator = Generator(config)
    if init:
        _load_weights(generator, init)
    generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs
    average = copy.deepcopy(generator).requires_grad_(False).to(fabric.device)
    forward, optimizer = fabric.setup(generator, build_optimizer(recipe, generator))
    weight = mouth_weight(config.size, config.mask_row, recipe.weights.mouth).to(fabric.device)
    critic = recipe.adversary.critic != "none"
    adversary = Adversary(recipe.adversary, config, fabric, recipe.seed) if critic else None
    switch = SyncSwitch(start=recipe.sync_start, ramp=recipe.sync_ramp)
    return GeneratorTrainState(
        recipe, fabric, generator, forward, average, expert, optimizer, weight, switch, adversary
    )


def _load_weights(generator: Generator, path: Path) -> None:
    """Loads the weights of a checkpoint into `generator`."""
    try:
        loaded = load_generator(path)[0]
    except MediaError as error:
        raise UsageError(str(error)) from error
    if loaded.config != generator.config:
        raise UsageError(f"{display_path(path)} does not match the recipe's generator: {loaded.config}")
    generator.load_state_dict(loaded.state_dict())


@torch.no_grad()
def update_ema(state: GeneratorTrainState) -> None:
    """Updates the exponential moving average of the weights."""
    rate = 1 - state.recipe.ema_decay_at(state.step)
    weights = state.generator.state_dict().values()
    for averaged, trained in zip(state.average.state_dict().values(), weights, strict=True):
        if averaged.is_floating_point():
            averaged.lerp_(trained, rate)
        else:
            averaged.copy_(trained)


def save_generator(state: GeneratorTrainState, path: Path) -> None:
    """Writes the averaged generator as a 16-bit checkpoint for `load_generator`."""
    config = state.config
    crop = CropGeometry("points", config.size)
    weights = state.average.state_dict()
    checkpoint = Checkpoint("generator", asdict(config), asdict(AudioConfig()), asdict(crop), weights, state.step)
    checkpoint.save(path, half=True)


def state_dict(state: GeneratorTrainState) -> dict[str, Any]:
    """Everything that changes during training, for `restore`.

    Raises:
        TrainingError: a weight is not finite; it must not overwrite a good state.
    """
    for name, weight in (state.generator.state_dict() | state.average.state_dict()).items():
        if not torch.isfinite(weight).all():
            raise TrainingError(f"the weight {name} is not finite after step {state.step}")
    parts = {"generator": state.generator, "average": state.average, "optimizer": state.optimizer}
    parts |= {"switch": state.switch, "adversary": state.adversary, "precision": state.fabric.strategy.precision}
    saved = {name: part.state_dict() for name, part in parts.items() if part is not None}
    return {"step": state.step, "best": state.best, "recipe": asdict(state.recipe)} | saved


def restore(state: GeneratorTrainState, saved: dict[str, Any]) -> None:
    """Restores a state saved by `state_dict`."""
    for name in ("generator", "average", "optimizer", "switch"):
        getattr(state, name).load_state_dict(saved[name])
    state.fabric.strategy.precision.load_state_dict(saved["precision"])
    if state.adversary:
        state.adversary.load_state_dict(saved["adversary"])
    state.step, state.best = saved["step"], saved["best"]
