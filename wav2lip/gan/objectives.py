"""Adversarial objectives: the losses of critic and generator behind one interface.

    gan = objective("wgan-gp", weight=10.0)
    critic:    (gan.critic_loss(real, fake) + gan.penalty(critic, real_images, fake_images)).backward()
               optimizer.step(), then gan.update(critic, real, fake)
    generator: gan.generator_loss(critic(fake_images)).backward()

`real` and `fake` are the critic's outputs for real and generated images, of any shape: logits, larger for real, or
for energy-based objectives (`energies`) energies of 0 or more, smaller for real. Losses are means over all elements.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError
from wav2lip.gan.divergences import DIVERGENCES, Divergence


@dataclass(frozen=True)
class OptimizerDefaults:
    """The optimizer used in an objective's paper; the default is DCGAN's (arXiv 1511.06434)."""

    optimizer: Literal["adam", "rmsprop"] = "adam"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)  # Adam only

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Builds the optimizer for the parameters."""
        if self.optimizer == "rmsprop":
            return torch.optim.RMSprop(parameters, lr=self.lr)
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas)


class Objective(nn.Module, ABC):
    """An adversarial objective; a module so that its state (BEGAN's k) is part of the state dict."""

    critic_steps: int = 1  # per generator step
    optimizer_defaults: OptimizerDefaults = OptimizerDefaults()
    energies: bool = False  # whether it takes energies instead of logits

    @abstractmethod
    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The loss that the critic minimizes, ()."""

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """The loss that the generator minimizes, ()."""

    def penalty(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        """The weighted penalty to add to the critic's loss, (); 0 for most objectives.

        Args:
            critic: maps images to logits, with any condition bound; use float32, as it is differentiated twice.
            real: (B, ...) real images; gradients do not flow into them or into `fake`.
            fake: (B, ...) generated images.
        """
        return real.new_zeros(())

    def update(self, critic: nn.Module, real: Tensor, fake: Tensor) -> None:
        """Called after each critic step with the outputs from before that step, averaged over processes."""


class Minimax(Objective):
    """Goodfellow et al., 2014 (arXiv 1406.2661), equation 1: min_G max_D E[log D(x)] + E[log(1 - D(G(z)))].

    With D the sigmoid of the logit, the critic's loss is softplus(-real) + softplus(fake) and the generator's is
    -softplus(fake), whose gradient vanishes where the critic is confident.
    """

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -F.softplus(fake).mean()


class NonSaturating(Minimax):
    """Goodfellow et al., 2014 (arXiv 1406.2661), section 3: the critic of minimax; the generator minimizes -E[log D].

    That is softplus(-fake), with the same fixed point; its gradient is strongest where the critic is confident.
    """

    def generator_loss(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


class LeastSquares(Objective):
    """LSGAN (Mao et al., 2017, arXiv 1611.04076), equation 9: 0-1 coding, a = 0, b = c = 1.

    Critic: E[(D(x) - 1)^2] / 2 + E[D(G(z))^2] / 2. Generator: E[(D(G(z)) - 1)^2] / 2.
    """

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return (real - 1).square().mean() / 2 + fake.square().mean() / 2

    def generator_loss(self, fake: Tensor) -> Tensor:
        return (fake - 1).square().mean() / 2


class Hinge(Objective):
    """Geometric GAN (Lim and Ye, 2017, arXiv 1705.02894); spectral normalization (arXiv 1802.05957), equations 16, 17.

    Critic: E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]. Generator: -E[D(G(z))].
    """

    optimizer_defaults = OptimizerDefaults(betas=(0.0, 0.9))

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return (1 - real).relu().mean() + (1 + fake).relu().mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -fake.mean()


class Wasserstein(Objective):
    """WGAN (Arjovsky et al., 2017, arXiv 1701.07875), algorithm 1: max E[D(x)] - E[D(G(z))] over Lipschitz critics.

    The critic's weights are clipped to [-clip, clip] after each of its steps. It takes five steps per generator step,
    with RMSProp: momentum made training unstable in the paper.
    """

    critic_steps = 5
    optimizer_defaults = OptimizerDefaults("rmsprop", 5e-5)

    def __init__(self, clip: float = 0.01) -> None:
        super().__init__()
        self.clip = _positive("clip", clip)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -fake.mean()

    @torch.no_grad()
    def update(self, critic: nn.Module, real: Tensor, fake: Tensor) -> None:
        for weight in critic.parameters():
            weight.clamp_(-self.clip, self.clip)


class WassersteinGradientPenalty(Objective):
    """WGAN-GP (Gulrajani et al., 2017, arXiv 1704.00028), equation 3: WGAN with a gradient penalty instead of clipping.

    weight * E[(|grad D(y)| - 1)^2] at y = e x + (1 - e) G(z), with e uniform in 0 to 1 for each image. The critic must
    not use batch norm.
    """

    critic_steps = 5
    optimizer_defaults = OptimizerDefaults(lr=1e-4, betas=(0.0, 0.9))

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__()
        self.weight = _positive("weight", weight)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -fake.mean()

    def penalty(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        epsilon = torch.rand(len(real), *[1] * (real.ndim - 1), dtype=real.dtype, device=real.device)
        interpolated = fake.detach().lerp(real.detach(), epsilon)
        return self.weight * (_gradient_norms(critic, interpolated) - 1).square().mean()


class DRAGAN(NonSaturating):
    """Kodali et al., 2017 (arXiv 1705.07215), equation 3: weight * E[(|grad D(x + d)| - 1)^2], d normal, x real.

    Adds a gradient penalty around the real images to the non-saturating GAN. The paper does not fix the noise level;
    here d's standard deviation is `noise` times the batch's, as in the authors' code. D is the logit rather than the
    paper's probability, whose gradient vanishes where the critic is confident.
    """

    def __init__(self, weight: float = 10.0, noise: float = 0.5) -> None:
        super().__init__()
        self.weight, self.noise = _positive("weight", weight), _positive("noise", noise)

    def penalty(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        x = real.detach()
        noisy = x + self.noise * x.std() * torch.randn_like(x)
        return self.weight * (_gradient_norms(critic, noisy) - 1).square().mean()


class EnergyBased(Objective):
    """EBGAN (Zhao et al., 2017, arXiv 1609.03126), equations 1 and 2, on energies.

    Critic: E[D(x)] + E[max(0, margin - D(G(z)))]. Generator: E[D(G(z))]. The margin must exceed the energy of real
    images; the default suits the mean absolute error of images in 0 to 1.
    """

    energies = True

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = _positive("margin", margin)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return real.mean() + (self.margin - fake).relu().mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return fake.mean()


class BoundaryEquilibrium(Objective):
    """BEGAN (Berthelot et al., 2017, arXiv 1703.10717), section 3.4, on energies.

    Critic: E[D(x)] - k E[D(G(z))]. Generator: E[D(G(z))]. After each step of the critic
    k <- k + lr (gamma E[D(x)] - E[D(G(z))]), clamped to 0 to 1, initially 0; a larger gamma favors diversity.
    """

    energies = True
    optimizer_defaults = OptimizerDefaults(lr=1e-4, betas=(0.5, 0.999))
    k: Tensor

    def __init__(self, gamma: float = 0.5, lr: float = 1e-3) -> None:
        super().__init__()
        if not 0 < gamma <= 1:
            raise UsageError(f"gamma must be above 0 and at most 1, not {gamma}")
        self.gamma, self.lr = gamma, _positive("lr", lr)
        self.register_buffer("k", torch.zeros(()))

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        # Cloned because `update` may modify k in place before this loss is differentiated.
        return real.mean() - self.k.clone() * fake.mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return fake.mean()

    @torch.no_grad()
    def update(self, critic: nn.Module, real: Tensor, fake: Tensor) -> None:
        self.k.add_(self.lr * (self.gamma * real.mean() - fake.mean())).clamp_(0, 1)

    @torch.no_grad()
    def convergence(self, real: Tensor, fake: Tensor) -> Tensor:
        """Convergence measure M = E[D(x)] + |gamma E[D(x)] - E[D(G(z))]|, (); lower is better."""
        return real.mean() + (self.gamma * real.mean() - fake.mean()).abs()


class FGAN(Objective):
    """f-GAN (Nowozin et al., 2016, arXiv 1606.00709), equation 6: min_G max_V E[g(V(x))] - E[f*(g(V(G(z))))].

    Args:
        divergence: the f-divergence.
        saturating: whether the generator minimizes -E[f*(g(V))], the divergence itself, rather than -E[g(V)], which
            has the same fixed point and does not vanish where the critic is confident (section 3.2).
    """

    def __init__(self, divergence: Divergence, saturating: bool = False) -> None:
        super().__init__()
        self.divergence, self.saturating = divergence, saturating

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.divergence.conjugate(fake).mean() - self.divergence.activation(real).mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -(self.divergence.conjugate if self.saturating else self.divergence.activation)(fake).mean()


def _positive(name: str, value: float) -> float:
    if value <= 0:
        raise UsageError(f"{name} must be above 0, not {value}")
    return value


def _gradient_norms(critic: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """(B,) Euclidean norms of the gradient of each image's mean logit; differentiable."""
    images = images.detach().requires_grad_()
    values = critic(images).reshape(len(images), -1).mean(1)
    (gradient,) = torch.autograd.grad(values.sum(), images, create_graph=True)
    # The epsilon keeps the norm differentiable at a zero gradient.
    return (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()


def _f_gan(kind: type[Divergence], saturating: bool = False, **options: float) -> Objective:
    return FGAN(kind(**options), saturating)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "minimax": Minimax,
    "non-saturating": NonSaturating,
    "lsgan": LeastSquares,
    "hinge": Hinge,
    "wgan": Wasserstein,
    "wgan-gp": WassersteinGradientPenalty,
    "dragan": DRAGAN,
    "ebgan": EnergyBased,
    "began": BoundaryEquilibrium,
    **{name: partial(_f_gan, kind) for name, kind in DIVERGENCES.items()},
}


def objective(name: str, **options: Any) -> Objective:
    """Builds an objective by name; options are its constructor's (f-GANs also take `saturating`).

    Raises:
        UsageError: the name or an option is unknown, or a value is out of range.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"unknown objective {name!r}; choose one of {', '.join(OBJECTIVES)}")
    try:
        return OBJECTIVES[name](**options)
    except TypeError as error:
        raise UsageError(f"objective {name}: {str(error).partition('() ')[2]}") from None
