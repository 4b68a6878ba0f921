"""Everything that lives while a generator is trained: how it begins, what of it is kept, and how it goes on."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
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
from wav2lip.generator.model import FrozenSyncNetEncoder, GeneratorConfig
from wav2lip.generator.recipe import GeneratorRecipe, build_optimizer
from wav2lip.generator.unet import AnyGenerator, build_generator

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class GeneratorTrainState:
    """The training's.

    Attributes:
        generator: the network. forward: the same as Fabric runs it. average: the one that is kept.
        expert: frozen. weight: of the pixels, see `mouth_weight`.
        switch: when the sync loss takes part. adversary: None without a critic.
        best: 1 with the sync loss, 0 before, then the figure by which the best generator was chosen.
    """

    recipe: GeneratorRecipe
    fabric: Fabric
    generator: AnyGenerator
    forward: Any
    average: AnyGenerator
    expert: SyncExpert
    optimizer: Any
    weight: Tensor
    switch: SyncSwitch
    adversary: Adversary | None
    step: int = 0
    best: tuple[int, float] = (-1, 0.0)

    @property
    def config(self) -> GeneratorConfig:
        """The generator's, its hearing's norm settled."""
        return self.generator.config

    @property
    def sync_weight(self) -> float:
        """Of the sync loss in the step to come."""
        weight = self.recipe.weights.sync
        return weight * self.switch.weight(self.step) if weight else 0.0

    @property
    def present_adversary(self) -> Adversary | None:
        """The adversary, where it takes part in the step to come."""
        return self.adversary if self.step >= self.recipe.adversary.start else None


def start(recipe: GeneratorRecipe, fabric: Fabric, expert_path: Path, init: Path | None = None) -> GeneratorTrainState:
    """A new state, alike in all processes.

    Raises:
        UsageError: there is no such expert, or `init` is no generator such as the recipe asks for.
    """
    torch.manual_seed(recipe.seed)
    expert = SyncExpert.load(expert_path, str(fabric.device))
    config = recipe.generator
    if config.audio_encoder == "syncnet":
        config = replace(config, audio_encoder_norm=expert.network.config["norm"])
    generator = build_generator(config)
    load_audio_encoder(generator, expert)
    if init:
        _take_over(generator, init)
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


def load_audio_encoder(generator: AnyGenerator, expert: SyncExpert) -> None:
    """Gives a generator that hears through an expert that expert's ears; others stay as they are.

    Raises:
        UsageError: the expert's audio tower is of another shape than `audio_encoder_norm` says.
    """
    if not isinstance(generator.audio_encoder, FrozenSyncNetEncoder):
        return
    if expert.network.config["norm"] != generator.config.audio_encoder_norm:
        norms = f"{expert.network.config['norm']!r}, not {generator.config.audio_encoder_norm!r}"
        raise UsageError(f"the expert has the norm {norms}: set the generator's audio_encoder_norm to it")
    generator.audio_encoder.tower.load_state_dict(expert.network.audio_encoder.state_dict())


def _take_over(generator: AnyGenerator, path: Path) -> None:
    """The weights of a generator's checkpoint."""
    try:
        theirs = load_generator(path)[0]
    except MediaError as error:
        raise UsageError(str(error)) from error
    if theirs.config != generator.config:
        raise UsageError(f"{display_path(path)} is not such a generator as is trained: {theirs.config}")
    generator.load_state_dict(theirs.state_dict())


@torch.no_grad()
def update_ema(state: GeneratorTrainState) -> None:
    """Moves the average towards the trained weights."""
    share = 1 - state.recipe.ema_decay_at(state.step)
    for ours, theirs in zip(state.average.state_dict().values(), state.generator.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, share)
        else:
            ours.copy_(theirs)


def save_generator(state: GeneratorTrainState, path: Path) -> None:
    """The averaged generator as a checkpoint in 16 bits, which `load_generator` opens."""
    config = state.config
    crop = CropGeometry("points", config.size)
    weights = state.average.state_dict()
    checkpoint = Checkpoint("generator", asdict(config), asdict(AudioConfig()), asdict(crop), weights, state.step)
    checkpoint.save(path, half=True)


def state_dict(state: GeneratorTrainState) -> dict[str, Any]:
    """All that changes while training, for `restore`.

    Raises:
        TrainingError: a weight is no number; it must not replace one that is.
    """
    for name, weight in (state.generator.state_dict() | state.average.state_dict()).items():
        if not torch.isfinite(weight).all():
            raise TrainingError(f"the weight {name} is no number after step {state.step}")
    parts = {"generator": state.generator, "average": state.average, "optimizer": state.optimizer}
    parts |= {"switch": state.switch, "adversary": state.adversary, "precision": state.fabric.strategy.precision}
    saved = {name: part.state_dict() for name, part in parts.items() if part is not None}
    return {"step": state.step, "best": state.best, "recipe": asdict(state.recipe)} | saved


def restore(state: GeneratorTrainState, saved: dict[str, Any]) -> None:
    """Goes on where `state_dict` was taken."""
    for name in ("generator", "average", "optimizer", "switch"):
        getattr(state, name).load_state_dict(saved[name])
    state.fabric.strategy.precision.load_state_dict(saved["precision"])
    if state.adversary:
        state.adversary.load_state_dict(saved["adversary"])
    state.step, state.best = saved["step"], saved["best"]
