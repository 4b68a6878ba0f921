"""The generator's adversary: a critic with its objective and optimizer, trained along with the generator on Fabric."""

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
from wav2lip.gan.adversary_recipe import AdversaryRecipe, FrameLayout, build_critic, critic_batch, critic_view
from wav2lip.gan.objectives import Objective, objective
from wav2lip.gan.regularization import DifferentiableAugmentation, r1_penalty
from wav2lip.gan.unrolling import unrolled

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class AdversarialWeights(Protocol):
    """Weights of the generator's adversarial losses; a loss with weight 0 is not computed."""

    @property
    def adversarial(self) -> float: ...

    @property
    def feature_matching(self) -> float: ...


class Adversary:
    """A critic trained along with the generator, identical in all processes.

    A training step is `generator_losses`, the generator's backward pass and step, then `train_critic`. Random numbers
    (augmentation, penalty points) depend on the seed, the rank and the number of earlier draws, which is part of the
    state, so that a resumed run is identical to an uninterrupted one.
    """

    def __init__(self, recipe: AdversaryRecipe, layout: FrameLayout, fabric: Fabric, seed: int) -> None:
        """
        Args:
            recipe: must have a critic.
            layout: size and mask row of the generator's images.
            fabric: launched.
            seed: of the critic's weights and of all random draws.

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
        defaults = self.objective.optimizer_defaults
        defaults = defaults if recipe.lr is None else replace(defaults, lr=recipe.lr)
        self.optimizer: Any
        self.forward, self.optimizer = fabric.setup(self.network, defaults.build(self.network.parameters()))
        self.draws = 0

    def train_critic(self, real: Tensor, fake: Tensor, condition: Tensor, step: int) -> dict[str, Tensor]:
        """Runs the critic's steps for one step of the generator.

        Args:
            real: (B, 3, 5, S, S), BGR, 0 to 1.
            fake: (B, 3, 5, S, S), generated; gradients do not flow into it.
            condition: (B, 3, 5, S, S), the masked faces.
            step: the generator's step.

        Returns:
            Scalars of the last critic step. critic: the objective's loss. penalty: if the objective has one. r1: in
            steps with the R1 penalty. real, fake: mean critic outputs over all processes. critic_norm: Euclidean norm
            of the critic's weights. If any of them is not finite, the critic's weights must not be saved.
        """
        values: dict[str, Tensor] = {}
        for turn in range(step * self.critic_steps, (step + 1) * self.critic_steps):
            with self._seeded():
                x, y, masked = self._critic_inputs(real.detach(), fake.detach(), condition.detach())
                with_r1 = self.recipe.r1 > 0 and turn % self.recipe.r1_every == 0
                values |= self._critic_step(x, y, masked, with_r1)
        return values

    def _critic_step(self, real: Tensor, fake: Tensor, condition: Tensor, with_r1: bool) -> dict[str, Tensor]:
        logits = self.forward(torch.cat((real, fake)), torch.cat((condition, condition))).float()
        of_real, of_fake = logits.chunk(2)
        losses = {"critic": self.objective.critic_loss(of_real, of_fake)}
        losses |= self._penalties(real, fake, condition, with_r1)
        # R1 is applied every r1_every steps with that weight (lazy regularization, arXiv 1912.04958).
        loss = total(losses, dict.fromkeys(losses, 1.0) | {"r1": self.recipe.r1_every})
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.optimizer.step()
        outputs = {"real": self._global_mean(of_real), "fake": self._global_mean(of_fake)}
        self.objective.update(self.network, outputs["real"], outputs["fake"])
        outputs["critic_norm"] = torch.nn.utils.get_total_norm([p.detach() for p in self.network.parameters()])
        return {name: x.detach() for name, x in losses.items()} | outputs

    def _global_mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        mean = self.fabric.all_reduce(values.detach().mean(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _penalties(self, real: Tensor, fake: Tensor, condition: Tensor, with_r1: bool) -> dict[str, Tensor]:
        """Computed in float32 on the unwrapped network, whose weights Fabric's module shares."""
        penalties = {}
        if type(self.objective).penalty is not Objective.penalty:
            penalties["penalty"] = self.objective.penalty(lambda x: self.network(x, condition), real, fake)
        if with_r1:
            penalties["r1"] = r1_penalty(self.network, real, condition, self.recipe.r1)
        return penalties

    def generator_losses(
        self, real: Tensor, fake: Tensor, condition: Tensor, weights: AdversarialWeights
    ) -> dict[str, Tensor]:  # fmt: skip
        """The critic's losses for the generator; the critic gets no gradient and does not change.

        Args:
            real: (B, 3, 5, S, S), BGR, 0 to 1.
            fake: (B, 3, 5, S, S), generated.
            condition: (B, 3, 5, S, S), the masked faces.
            weights: decides which losses are computed.

        Returns:
            Scalars, for weights above 0. adversarial: the objective's loss. feature_matching: sum over the critic's
            layers of the L1 between their outputs for real and generated images (pix2pixHD, arXiv 1711.11585, section
            3.2).
        """
        losses = {}
        with self._seeded(), self._frozen():
            images = self._critic_inputs(real.detach(), fake, condition.detach())
            if weights.adversarial:
                losses["adversarial"] = self.objective.generator_loss(self._fake_logits(*images))
            if weights.feature_matching:
                losses["feature_matching"] = self._feature_matching(*images)
        return losses

    def _fake_logits(self, real: Tensor, fake: Tensor, condition: Tensor) -> Tensor:
        """The critic's output for generated images, before or after the unrolled steps, in float32."""
        if not self.recipe.unroll:
            with self.fabric.autocast():
                return self.network(fake, condition).float()
        unrolled_critic = unrolled(
            self.network,
            lambda critic: self.objective.critic_loss(critic(real, condition), critic(fake, condition)),
            self.recipe.unroll,
            self.recipe.unroll_lr,
        )
        return unrolled_critic(fake, condition)

    def _feature_matching(self, real: Tensor, fake: Tensor, condition: Tensor) -> Tensor:
        with self.fabric.autocast():
            with torch.no_grad():
                of_real = self.network.features(real, condition)
            of_fake = self.network.features(fake, condition)
        layers = [F.l1_loss(fake.float(), real.float()) for fake, real in zip(of_fake, of_real, strict=True)]
        return torch.stack(layers).sum()

    def _critic_inputs(self, *windows: Tensor) -> list[Tensor]:
        """Crops, augments and arranges windows for the critic; all get the same augmentation."""
        views = [critic_view(self.recipe, self.layout, x) for x in windows]
        if self.recipe.augment:
            params = self.augmentation.draw(len(views[0]))
            views = [self.augmentation.apply(x, params) for x in views]
        return [critic_batch(x, self.recipe) for x in views]

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Seeds torch for the next draw; the global random state is restored afterwards."""
        device = self.fabric.device
        seed = np.random.SeedSequence((self.seed, self.fabric.global_rank, self.draws)).generate_state(1)
        self.draws += 1
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[0]))
            yield

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Disables the critic's gradients and spectral norm's power iteration."""
        self.network.requires_grad_(False).eval()
        try:
            yield
        finally:
            self.network.requires_grad_(True).train()

    def state_dict(self) -> dict[str, Any]:
        """State of the critic, its optimizer, the objective and the random draws."""
        parts = {"critic": self.network, "optimizer": self.optimizer, "objective": self.objective}
        return {name: part.state_dict() for name, part in parts.items()} | {"draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state from a `state_dict`, bit for bit."""
        self.network.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.draws = state["draws"]
