"""The critic's side of the painter's training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wav2lip.gan.objectives import Objective, objective
from wav2lip.gan.regularization import DifferentiableAugmentation, r1_penalty
from wav2lip.renderer.training.critic import MouthCritic
from wav2lip.renderer.training.recipe import CriticRecipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

COLORS = DifferentiableAugmentation(brightness=0.1, saturation=0.2, contrast=0.2, translation=0.05, cutout=0.0)
SHAPES = replace(COLORS, brightness=0.0, saturation=0.0, contrast=0.0)  # masks move along, but have no colors


class MouthAdversary:
    """A critic with its objective and optimizer.

    Random numbers come from torch's generator, seeded by the training step.
    """

    def __init__(self, recipe: CriticRecipe, fabric: Fabric) -> None:
        self.recipe, self.fabric = recipe, fabric
        self.network = MouthCritic(recipe.width, recipe.projection, recipe.batch_deviation)
        self.objective = objective(recipe.objective).to(fabric.device)
        defaults = replace(self.objective.optimizer_defaults, lr=recipe.lr, optimizer="adam")
        defaults = replace(defaults, betas=(min(defaults.betas[0], 0.5), 0.99))
        self.optimizer: Any
        self.forward, self.optimizer = fabric.setup(self.network, defaults.build(self.network.parameters()))
        self.steps = recipe.steps or self.objective.critic_steps

    def generator_losses(self, fake: Tensor, real: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Losses adversarial and features of the painter; the critic does not change."""
        self.network.requires_grad_(False)
        (fake, real), masks = _augmented((fake, real), masks)
        with torch.no_grad():
            real_logits, of_real = self.network.logits_and_features(real, masks)
        logits, of_fake = self.network.logits_and_features(fake, masks)
        self.network.requires_grad_(True)
        logits = logits - real_logits if self.recipe.paired else logits
        layers = [F.l1_loss(ours, theirs) for ours, theirs in zip(of_fake, of_real, strict=True)]
        return {"adversarial": self.objective.generator_loss(logits), "features": torch.stack(layers).mean()}

    def train(self, fake: Tensor, real: Tensor, masks: Tensor, step: int, factor: float) -> dict[str, Tensor]:
        """Runs the critic's steps for one step of the painter; `factor` is applied to the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * factor
        values: dict[str, Tensor] = {}
        for turn in range(step * self.steps, (step + 1) * self.steps):
            values |= self._step(fake.detach(), real, masks, turn)
        return values

    def _step(self, fake: Tensor, real: Tensor, masks: Tensor, turn: int) -> dict[str, Tensor]:
        (fake, real), masks = _augmented((fake, real), masks)
        half = max(1, len(real) // 2)
        of_real, of_fake = self.forward(real, masks), self.forward(fake, masks)
        loss = critic = self._critic_loss(of_real, of_fake)
        if self.recipe.mismatched:
            of_other = self.forward(real[:half], masks.roll(1, 0)[:half])
            loss = loss + self.recipe.mismatched * self._critic_loss(of_real[:half], of_other)
        if type(self.objective).penalty is not Objective.penalty:
            loss = loss + self.objective.penalty(lambda x: self.network(x, masks), real, fake)
        if self.recipe.r1 and turn % self.recipe.r1_every == 0:
            loss = loss + self.recipe.r1_every * r1_penalty(self.network, real, masks, self.recipe.r1)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.optimizer.step()
        self.objective.update(self.network, of_real.detach(), of_fake.detach())
        right = torch.sign(of_real - of_fake).mean() / 2 + 0.5
        return {"critic": critic.detach(), "critic_right": right.detach()}

    def _critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.recipe.paired:
            return self.objective.critic_loss(real - fake, fake - real) / 2
        return self.objective.critic_loss(real, fake)

    def state_dict(self) -> dict[str, Any]:
        """State of critic, optimizer and objective."""
        parts = {"critic": self.network, "optimizer": self.optimizer, "objective": self.objective}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""
        for name, part in {"critic": self.network, "optimizer": self.optimizer, "objective": self.objective}.items():
            part.load_state_dict(state[name])


def _augmented(images: tuple[Tensor, ...], masks: Tensor) -> tuple[list[Tensor], Tensor]:
    """The same augmentation for all images and the masks."""
    drawn = COLORS.draw(len(masks))
    return [COLORS.apply(image, drawn) for image in images], SHAPES.apply(masks, drawn)
