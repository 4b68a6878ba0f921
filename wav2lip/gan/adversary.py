"""The generator's adversary: a critic, its objective and its optimiser, trained beside the generator on Fabric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses import total
from wav2lip.gan.adversary_recipe import AdversaryRecipe, PictureLayout, arranged, build_critic, seen_by
from wav2lip.gan.objectives import Objective, objective
from wav2lip.gan.regularisation import DifferentiableAugmentation, r1_penalty
from wav2lip.gan.unrolling import unrolled

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class AdversarialWeights(Protocol):
    """Weights of the losses that a critic gives the generator; 0 leaves one out."""

    @property
    def adversarial(self) -> float: ...

    @property
    def feature_matching(self) -> float: ...


class Adversary:
    """A critic that is trained beside the generator; alike in all processes.

    In a step of the training: `generator_losses`, the generator's backward pass and step, then `train_critic`. What is
    drawn (augmentation, places of the penalties) depends on the seed, the process and the number of draws before, which
    is part of the state, so that a run that was stopped goes on as if it had not been.
    """

    def __init__(self, recipe: AdversaryRecipe, layout: PictureLayout, fabric: Fabric, seed: int) -> None:
        """
        Args:
            recipe: one that has a critic.
            layout: of the generator's pictures.
            fabric: launched already.
            seed: of the critic's weights and of all that is drawn.

        Raises:
            UsageError: the recipe has no critic, or the region is too small for it.
        """
        self.recipe, self.layout, self.fabric, self.seed = recipe, layout, fabric, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = build_critic(recipe, layout)
        self.objective = objective(recipe.objective).to(fabric.device)
        self.augmentation = DifferentiableAugmentation()
        self.critic_steps = recipe.critic_steps or self.objective.critic_steps
        advice = self.objective.advice
        advice = advice if recipe.lr is None else replace(advice, lr=recipe.lr)
        self.optimizer: Any
        self.forward, self.optimizer = fabric.setup(self.network, advice.build(self.network.parameters()))
        self.draws = 0

    def train_critic(self, real: Tensor, fake: Tensor, condition: Tensor, step: int) -> dict[str, Tensor]:
        """The critic's steps for one of the generator.

        Args:
            real: (B, 3, 5, S, S), BGR, 0 to 1.
            fake: (B, 3, 5, S, S), generated; nothing of it is differentiated by.
            condition: (B, 3, 5, S, S), the masked faces.
            step: the generator's.

        Returns:
            Scalars of the last of the steps: critic, the objective's loss. penalty, where the objective has one. r1,
            where it was paid. real and fake, means of what the critic said in all processes. critic_norm, the Euclidean
            norm of the critic's weights. Where one of them is no number, the critic is spoilt, and must not be saved.
        """
        found: dict[str, Tensor] = {}
        for turn in range(step * self.critic_steps, (step + 1) * self.critic_steps):
            with self._drawing():
                x, y, masked = self._shown(real.detach(), fake.detach(), condition.detach())
                pay_r1 = self.recipe.r1 > 0 and turn % self.recipe.r1_every == 0
                found |= self._critic_step(x, y, masked, pay_r1)
        return found

    def _critic_step(self, real: Tensor, fake: Tensor, condition: Tensor, pay_r1: bool) -> dict[str, Tensor]:
        logits = self.forward(torch.cat((real, fake)), torch.cat((condition, condition))).float()
        of_real, of_fake = logits.chunk(2)
        losses = {"critic": self.objective.critic_loss(of_real, of_fake)}
        losses |= self._penalties(real, fake, condition, pay_r1)
        # R1 is paid rarely, and then for all the steps since (lazy regularisation, arXiv 1912.04958).
        loss = total(losses, dict.fromkeys(losses, 1.0) | {"r1": self.recipe.r1_every})
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.optimizer.step()
        said = {"real": self._everywhere(of_real), "fake": self._everywhere(of_fake)}
        self.objective.update(self.network, said["real"], said["fake"])
        said["critic_norm"] = torch.nn.utils.get_total_norm([p.detach() for p in self.network.parameters()])
        return {name: x.detach() for name, x in losses.items()} | said

    def _everywhere(self, values: Tensor) -> Tensor:
        """Their mean over all processes."""
        mean = self.fabric.all_reduce(values.detach().mean(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _penalties(self, real: Tensor, fake: Tensor, condition: Tensor, pay_r1: bool) -> dict[str, Tensor]:
        """In float32, by the bare network: its weights are those that Fabric's module averages the gradients of."""
        penalties = {}
        if type(self.objective).penalty is not Objective.penalty:
            penalties["penalty"] = self.objective.penalty(lambda x: self.network(x, condition), real, fake)
        if pay_r1:
            penalties["r1"] = r1_penalty(self.network, real, condition, self.recipe.r1)
        return penalties

    def generator_losses(
        self, real: Tensor, fake: Tensor, condition: Tensor, weights: AdversarialWeights
    ) -> dict[str, Tensor]:  # fmt: skip
        """What the critic asks of the generator; its own weights get no gradient, nor does anything of it change.

        Args:
            real: (B, 3, 5, S, S), BGR, 0 to 1.
            fake: (B, 3, 5, S, S), generated.
            condition: (B, 3, 5, S, S), the masked faces.

        Returns:
            Scalars, those of the two that have a weight: adversarial, the objective's loss. matching, the sum over the
            critic's layers of the mean absolute difference between their outputs for the real and for the generated
            picture (feature matching, pix2pixHD, arXiv 1711.11585, section 3.2).
        """
        losses = {}
        with self._drawing(), self._frozen():
            pictures = self._shown(real.detach(), fake, condition.detach())
            if weights.adversarial:
                losses["adversarial"] = self.objective.generator_loss(self._answer(*pictures))
            if weights.feature_matching:
                losses["feature_matching"] = self._matching(*pictures)
        return losses

    def _answer(self, real: Tensor, fake: Tensor, condition: Tensor) -> Tensor:
        """What the critic says of the generated pictures, now or after the unrolled steps (in float32)."""
        if not self.recipe.unroll:
            with self.fabric.autocast():
                return self.network(fake, condition).float()
        later = unrolled(
            self.network,
            lambda critic: self.objective.critic_loss(critic(real, condition), critic(fake, condition)),
            self.recipe.unroll,
            self.recipe.unroll_lr,
        )
        return later(fake, condition)

    def _matching(self, real: Tensor, fake: Tensor, condition: Tensor) -> Tensor:
        with self.fabric.autocast():
            with torch.no_grad():
                wanted = self.network.features(real, condition)
            made = self.network.features(fake, condition)
        layers = [F.l1_loss(ours.float(), theirs.float()) for ours, theirs in zip(made, wanted, strict=True)]
        return torch.stack(layers).sum()

    def _shown(self, *windows: Tensor) -> list[Tensor]:
        """Windows as the critic sees them, all of them augmented alike."""
        seen = [seen_by(self.recipe, self.layout, x) for x in windows]
        if self.recipe.augment:
            disguise = self.augmentation.draw(len(seen[0]))
            seen = [self.augmentation.apply(x, disguise) for x in seen]
        return [arranged(x, self.recipe) for x in seen]

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Random numbers of their own for the next turn; those of others are left as they were."""
        device = self.fabric.device
        seed = np.random.SeedSequence((self.seed, self.fabric.global_rank, self.draws)).generate_state(1)
        self.draws += 1
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[0]))
            yield

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """The critic without gradients of its own, and without spectral norm's steps of power iteration."""
        self.network.requires_grad_(False).eval()
        try:
            yield
        finally:
            self.network.requires_grad_(True).train()

    def state_dict(self) -> dict[str, Any]:
        """The critic, its optimiser, what the objective remembers, and how often was drawn."""
        parts = {"critic": self.network, "optimizer": self.optimizer, "objective": self.objective}
        return {name: part.state_dict() for name, part in parts.items()} | {"draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`, bit for bit."""
        self.network.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.draws = state["draws"]
