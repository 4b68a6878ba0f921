"""Adversarial objectives behind one small interface: what the critic learns from, and what the generator.

    aim = objective("wgan-gp", weight=10.0)
    critic:    (aim.critic_loss(real, fake) + aim.penalty(critic, real_pictures, fake_pictures)).backward()
               optimizer.step(), then aim.update(critic, real, fake)
    generator: aim.generator_loss(critic(fake_pictures)).backward()

`real` and `fake` are what the critic says of real and generated pictures, of any shape: logits, larger for real, or
for the energy-based objectives (`energies`) energies of 0 or more, smaller for real. Losses are means over all of it.
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
    """The optimiser that an objective's paper trained with; the default is DCGAN's (arXiv 1511.06434)."""

    optimizer: Literal["adam", "rmsprop"] = "adam"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)  # Adam's only

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser over these parameters."""
        if self.optimizer == "rmsprop":
            return torch.optim.RMSprop(parameters, lr=self.lr)
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas)


class Objective(nn.Module, ABC):
    """A module only so that what an objective remembers (BEGAN's k) travels in its state dict."""

    critic_steps: int = 1  # of the critic for one of the generator
    advice: OptimizerDefaults = OptimizerDefaults()
    energies: bool = False  # takes energies instead of logits

    @abstractmethod
    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The loss that the critic goes down, ()."""

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """The loss that the generator goes down, ()."""

    def penalty(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        """What the critic's loss is increased by, weighted already, (); 0 for most.

        Args:
            critic: pictures to logits, a condition bound beforehand. It is differentiated twice: in float32, please.
            real: (B, ...) real pictures; gradients end here and at `fake`.
            fake: (B, ...) as many generated ones.
        """
        return real.new_zeros(())

    def update(self, critic: nn.Module, real: Tensor, fake: Tensor) -> None:
        """After each step of the critic, with what it said before that step (of all processes, where several train)."""


class Minimax(Objective):
    """Goodfellow et al., 2014 (arXiv 1406.2661), equation 1: min_G max_D E[log D(x)] + E[log(1 - D(G(z)))].

    With D the logit's sigmoid the critic loses softplus(-real) + softplus(fake), the generator -softplus(fake), whose
    gradient vanishes where the critic is sure.
    """

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -F.softplus(fake).mean()


class NonSaturating(Minimax):
    """Goodfellow et al., 2014 (arXiv 1406.2661), section 3: the critic of minimax; the generator minimises -E[log D].

    That is softplus(-fake), with the same fixed point, whose gradient is strongest where the critic is sure.
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
    """Geometric GAN (Lim and Ye, 2017, arXiv 1705.02894); spectral normalisation (arXiv 1802.05957), equations 16, 17.

    Critic: E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]. Generator: -E[D(G(z))].
    """

    advice = OptimizerDefaults(betas=(0.0, 0.9))

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return (1 - real).relu().mean() + (1 + fake).relu().mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -fake.mean()


class Wasserstein(Objective):
    """WGAN (Arjovsky et al., 2017, arXiv 1701.07875), algorithm 1: max E[D(x)] - E[D(G(z))] over Lipschitz critics.

    The critic's weights are clipped to [-clip, clip] after each of its steps. The critic takes five to the
    generator's one, by RMSProp: a momentum made the paper's training unstable.
    """

    critic_steps = 5
    advice = OptimizerDefaults("rmsprop", 5e-5)

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
    """WGAN-GP (Gulrajani et al., 2017, arXiv 1704.00028), equation 3: WGAN with a penalty in the clipping's place.

    weight * E[(|grad D(y)| - 1)^2] at y = e x + (1 - e) G(z), e uniform in 0 to 1, one for each picture. The critic
    must not normalise over the batch.
    """

    critic_steps = 5
    advice = OptimizerDefaults(lr=1e-4, betas=(0.0, 0.9))

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__()
        self.weight = _positive("weight", weight)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -fake.mean()

    def penalty(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        share = torch.rand(len(real), *[1] * (real.ndim - 1), dtype=real.dtype, device=real.device)
        between = fake.detach().lerp(real.detach(), share)
        return self.weight * (_slopes(critic, between) - 1).square().mean()


class DRAGAN(NonSaturating):
    """Kodali et al., 2017 (arXiv 1705.07215), equation 3: weight * E[(|grad D(x + d)| - 1)^2], d normal, x real.

    A smooth critic around the real pictures, on top of the non-saturating GAN. The paper leaves the noise's size to
    the data; here d's deviation is `noise` times the batch's, the scale of the authors' code. D is the logit rather
    than the paper's probability, whose slope vanishes where the critic is sure.
    """

    def __init__(self, weight: float = 10.0, noise: float = 0.5) -> None:
        super().__init__()
        self.weight, self.noise = _positive("weight", weight), _positive("noise", noise)

    def penalty(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        x = real.detach()
        near = x + self.noise * x.std() * torch.randn_like(x)
        return self.weight * (_slopes(critic, near) - 1).square().mean()


class EnergyBased(Objective):
    """EBGAN (Zhao et al., 2017, arXiv 1609.03126), equations 1 and 2, on energies.

    Critic: E[D(x)] + E[max(0, margin - D(G(z)))]. Generator: E[D(G(z))]. The margin must lie above the energy of real
    pictures; the default suits a mean absolute difference of pictures of 0 to 1.
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
    k <- k + rate (gamma E[D(x)] - E[D(G(z))]), held in 0 to 1, from 0 on; a larger gamma asks for more diversity.
    """

    energies = True
    advice = OptimizerDefaults(lr=1e-4, betas=(0.5, 0.999))
    k: Tensor

    def __init__(self, gamma: float = 0.5, lr: float = 1e-3) -> None:
        super().__init__()
        if not 0 < gamma <= 1:
            raise UsageError(f"gamma must lie above 0 and at most at 1, not at {gamma}")
        self.gamma, self.lr = gamma, _positive("lr", lr)
        self.register_buffer("k", torch.zeros(()))

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        # A copy, as `update` may write into k before this loss is differentiated.
        return real.mean() - self.k.clone() * fake.mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return fake.mean()

    @torch.no_grad()
    def update(self, critic: nn.Module, real: Tensor, fake: Tensor) -> None:
        self.k.add_(self.lr * (self.gamma * real.mean() - fake.mean())).clamp_(0, 1)

    @torch.no_grad()
    def convergence(self, real: Tensor, fake: Tensor) -> Tensor:
        """M = E[D(x)] + |gamma E[D(x)] - E[D(G(z))]|, (), which falls as training goes well."""
        return real.mean() + (self.gamma * real.mean() - fake.mean()).abs()


class FGAN(Objective):
    """f-GAN (Nowozin et al., 2016, arXiv 1606.00709), equation 6: min_G max_V E[g(V(x))] - E[f*(g(V(G(z))))].

    Args:
        divergence: which f.
        saturating: whether the generator minimises -E[f*(g(V))], the divergence itself, rather than -E[g(V)], which
            has the same fixed point and does not fade where the critic is sure (section 3.2).
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


def _slopes(critic: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """(B,) Euclidean norms of the gradients of each picture's mean logit; they can be differentiated once more."""
    pictures = pictures.detach().requires_grad_()
    values = critic(pictures).reshape(len(pictures), -1).mean(1)
    (gradient,) = torch.autograd.grad(values.sum(), pictures, create_graph=True)
    # Without the small number the norm of a gradient of zero has no derivative.
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
    """The objective of that name with these options (its constructor's; f-GANs take `saturating` beside f's own).

    Raises:
        UsageError: there is no such name, or it has no such option, or the option's value is out of range.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"no objective is called {name!r}; there are {', '.join(OBJECTIVES)}")
    try:
        return OBJECTIVES[name](**options)
    except TypeError as error:
        raise UsageError(f"objective {name}: {str(error).partition('() ')[2]}") from None
