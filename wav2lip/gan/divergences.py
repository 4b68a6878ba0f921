"""Variational f-divergences: f-GAN (Nowozin, Cseke and Tomioka, 2016, arXiv 1606.00709), table 6.

D_f(P||Q) = E_Q[f(p/q)] for a convex f with f(1) = 0 (-log 4 for the GAN, which shifts its divergence by that value). It
is the supremum of E_P[g(V)] - E_Q[f*(g(V))] over critics V, where f*(t) = sup_u (t u - f(u)) is the conjugate of f and
the output activation g maps logits into the domain of f* (equations 4 and 6). All g here are increasing, so that larger
logits mean "more real". The conjugate is implemented as a function of the logit: the composition simplifies to forms
that are numerically stable where the separate functions overflow or cancel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from preprocessing.errors import UsageError

NEWTON_STEPS = 8  # six reach float64 precision from the starting points below


class Divergence(ABC):
    """An f-divergence for f-GAN; both methods map logits of any shape elementwise."""

    @abstractmethod
    def activation(self, logits: Tensor) -> Tensor:
        """The values t = g(v)."""

    @abstractmethod
    def conjugate(self, logits: Tensor) -> Tensor:
        """The values f*(g(v))."""


class TotalVariation(Divergence):
    """f(u) = |u - 1| / 2, f*(t) = t for |t| <= 1/2, g(v) = tanh(v) / 2."""

    def activation(self, logits: Tensor) -> Tensor:
        return logits.tanh() / 2

    def conjugate(self, logits: Tensor) -> Tensor:
        return logits.tanh() / 2


class KullbackLeibler(Divergence):
    """KL(P||Q): f(u) = u log u, f*(t) = exp(t - 1), g(v) = v."""

    def activation(self, logits: Tensor) -> Tensor:
        return logits

    def conjugate(self, logits: Tensor) -> Tensor:
        return (logits - 1).exp()


class ReverseKullbackLeibler(Divergence):
    """KL(Q||P): f(u) = -log u, f*(t) = -1 - log(-t) for t < 0, g(v) = -exp(-v)."""

    def activation(self, logits: Tensor) -> Tensor:
        return -(-logits).exp()

    def conjugate(self, logits: Tensor) -> Tensor:
        return logits - 1


class Pearson(Divergence):
    """Pearson's chi squared: f(u) = (u - 1)^2, f*(t) = t^2 / 4 + t for t >= -2, g(v) = v.

    Below t = -2 the supremum over u >= 0 is -1, at u = 0. The paper's table omits this; its formula increases again
    there, which would pull logits of generated images back to -2.
    """

    def activation(self, logits: Tensor) -> Tensor:
        return logits

    def conjugate(self, logits: Tensor) -> Tensor:
        return (logits / 2 + 1).relu() ** 2 - 1


class Neyman(Divergence):
    """Neyman's chi squared: f(u) = (1 - u)^2 / u, f*(t) = 2 - 2 sqrt(1 - t) for t < 1, g(v) = 1 - exp(-v)."""

    def activation(self, logits: Tensor) -> Tensor:
        return -torch.expm1(-logits)

    def conjugate(self, logits: Tensor) -> Tensor:
        return -2 * torch.expm1(-logits / 2)


class SquaredHellinger(Divergence):
    """f(u) = (sqrt u - 1)^2, f*(t) = t / (1 - t) for t < 1, g(v) = 1 - exp(-v)."""

    def activation(self, logits: Tensor) -> Tensor:
        return -torch.expm1(-logits)

    def conjugate(self, logits: Tensor) -> Tensor:
        return torch.expm1(logits)


class Jeffrey(Divergence):
    """KL(P||Q) + KL(Q||P): f(u) = (u - 1) log u, f*(t) = w + 1/w + t - 2 with w = W(e^(1 - t)), g(v) = v.

    W is the Lambert W function. W(e^y) is computed as the Wright omega function, which does not overflow, and 1/w as
    exp(w - y), whose derivatives stay finite as w approaches 0.
    """

    def activation(self, logits: Tensor) -> Tensor:
        return logits

    def conjugate(self, logits: Tensor) -> Tensor:
        y = 1 - logits
        w = wright_omega(y)
        return w + (w - y).exp() - y - 1


class JensenShannon(Divergence):
    """f(u) = u log u - (u + 1) log((u + 1) / 2), f*(t) = -log(2 - e^t) for t < log 2, g(v) = log 2 + log sigmoid(v)."""

    def activation(self, logits: Tensor) -> Tensor:
        return math.log(2) - F.softplus(-logits)

    def conjugate(self, logits: Tensor) -> Tensor:
        return F.softplus(logits) - math.log(2)


@dataclass(frozen=True)
class WeightedJensenShannon(Divergence):
    """pi KL(P||M) + (1 - pi) KL(Q||M) with M = pi P + (1 - pi) Q, for 0 < pi < 1.

    f(u) = pi u log u - (1 - pi + pi u) log(1 - pi + pi u),
    f*(t) = (1 - pi) log((1 - pi) / (1 - pi e^(t/pi))) for t < -pi log pi, g(v) = -pi log pi + log sigmoid(v).

    Raises:
        UsageError: pi is not between 0 and 1.
    """

    pi: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.pi < 1:
            raise UsageError(f"pi, the weight of the real images, must be between 0 and 1, not {self.pi}")

    def activation(self, logits: Tensor) -> Tensor:
        return -self.pi * math.log(self.pi) - F.softplus(-logits)

    def conjugate(self, logits: Tensor) -> Tensor:
        # pi e^(g(v)/pi) is sigmoid(v)^(1/pi), which rounds to 1 for large v; 1 minus it is then e^-v / pi.
        x = F.softplus(-logits.clamp(max=15)) / self.pi
        distance = torch.where(logits > 15, -logits - math.log(self.pi), (-torch.expm1(-x)).log())
        return (1 - self.pi) * (math.log1p(-self.pi) - distance)


class GAN(Divergence):
    """The original GAN's divergence: twice Jensen-Shannon minus log 4.

    f(u) = u log u - (u + 1) log(u + 1), f*(t) = -log(1 - e^t) for t < 0, g(v) = log sigmoid(v).
    """

    def activation(self, logits: Tensor) -> Tensor:
        return -F.softplus(-logits)

    def conjugate(self, logits: Tensor) -> Tensor:
        return F.softplus(logits)


class _WrightOmega(torch.autograd.Function):
    """Newton's method forward; implicit differentiation backward: w + log w = y gives dw/dy = w / (1 + w)."""

    @staticmethod
    def forward(ctx: FunctionCtx, y: Tensor) -> Tensor:
        # z = log w solves e^z + z = y, a convex function; both starts lie right of the root, so no step overshoots.
        z = torch.where(y > 1, y.clamp(min=1).log(), y)
        for _ in range(NEWTON_STEPS):
            exp_z = z.exp()
            z = z - (exp_z + z - y) / (exp_z + 1)
        w = torch.where(y > 1, y - z, z.exp())
        ctx.save_for_backward(w)
        return w

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (w,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * w / (1 + w)  # differentiable, for unrolling


def wright_omega(y: Tensor) -> Tensor:
    """The Wright omega function W(e^y): the w > 0 with w + log w = y (Corless and Jeffrey, 2002), differentiable."""
    return _WrightOmega.apply(y)


DIVERGENCES: dict[str, type[Divergence]] = {
    "total-variation": TotalVariation,
    "kl": KullbackLeibler,
    "reverse-kl": ReverseKullbackLeibler,
    "pearson": Pearson,
    "neyman": Neyman,
    "squared-hellinger": SquaredHellinger,
    "jeffrey": Jeffrey,
    "jensen-shannon": JensenShannon,
    "weighted-jensen-shannon": WeightedJensenShannon,
    "gan": GAN,
}
