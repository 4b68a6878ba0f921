"""Training of a network whose weights are averaged: the average is what is validated and saved."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from preprocessing.errors import TrainingError
from training.run import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PARTS = ("network", "averaged", "optimizer")  # of a saved state


class AveragedRecipe(Protocol):
    """What a recipe, a dataclass, needs for `AveragedState`.

    Attributes:
        lr: peak learning rate.
        weight_decay: of AdamW.
        average: decay of the exponential moving average of the weights.
    """

    @property
    def lr(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def average(self) -> float: ...

    def lr_at(self, step: int) -> float:
        """Learning rate at a step."""


def warmed_cosine(lr: float, step: int, steps: int, warmup: int) -> float:
    """Learning rate at a step: rises in `warmup` steps to its peak `lr`, falls along a cosine to a thousandth of it."""
    rise = min(1.0, (step + 1) / warmup)
    return lr * rise * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))) + lr * 1e-3


Recipe = TypeVar("Recipe", bound=AveragedRecipe)
Network = TypeVar("Network", bound=nn.Module)


@dataclass
class AveragedState(Generic[Recipe, Network]):
    """Training state; `forward` is the network wrapped by Fabric, `averaged` its exponential moving average."""

    recipe: Recipe
    fabric: Fabric
    network: Network
    averaged: Network
    forward: nn.Module
    optimizer: Any
    step: int = 0

    @classmethod
    def start(cls, recipe: Recipe, fabric: Fabric, network: Network) -> AveragedState[Recipe, Network]:
        """The state of a new run, with AdamW."""
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
        averaged = copy.deepcopy(network).eval().requires_grad_(False)
        forward, optimizer = fabric.setup(network, optimizer)
        return cls(recipe, fabric, network, averaged, forward, optimizer)

    def descend(self, loss: Tensor, max_norm: float | None = None) -> None:
        """Runs one step of the optimizer and of the average.

        Args:
            loss: of this step, ().
            max_norm: to which the norm of the gradient is clipped; None: it is not.

        Raises:
            TrainingError: the loss is not finite; the network is unchanged.
        """
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {self.step}; try a lower learning rate")
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr_at(self.step)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        if max_norm is not None:
            self.fabric.clip_gradients(self.forward, self.optimizer, max_norm=max_norm, error_if_nonfinite=False)
        self.optimizer.step()
        self.step += 1
        update_average(self.averaged, self.network, self.recipe.average, self.step)

    def save(self, run: RunFolder) -> None:
        """Saves the state for `resume`."""
        states = {name: getattr(self, name).state_dict() for name in PARTS}
        run.save_state({"step": self.step, "recipe": _values(self.recipe)} | states)

    def resume(self, run: RunFolder) -> None:
        """Resumes from the folder's state, if any.

        Raises:
            UsageError: it was trained with a different recipe; the message names the field and both values.
        """
        if (saved := run.load_state(_values(self.recipe))) is None:
            return
        for name in PARTS:
            getattr(self, name).load_state_dict(saved[name])
        self.step = saved["step"]
        run.truncate_log(self.step)


def _values(recipe: Any) -> dict[str, Any]:
    return asdict(recipe)


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves the averaged weights and buffers towards the network's, in place; integers are copied.

    Args:
        decay: share of the average that stays; less in the first steps, (1 + step) / (10 + step) at most.
        step: training steps done.
    """
    keep = min(decay, (1 + step) / (10 + step))
    theirs = network.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(theirs[name], 1 - keep)
        else:
            value.copy_(theirs[name])
