"""f-GAN's conjugates and output activations against the generator functions f."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wav2lip.gan.divergences import DIVERGENCES, Divergence, WeightedJensenShannon, wright_omega

# The generating functions f of the paper's table 6.
XLOGX = torch.special.xlogy
PI = 0.3
GENERATING = {
    "total-variation": lambda u: (u - 1).abs() / 2,
    "kl": lambda u: XLOGX(u, u),
    "reverse-kl": lambda u: -u.log(),
    "pearson": lambda u: (u - 1) ** 2,
    "neyman": lambda u: (1 - u) ** 2 / u,
    "squared-hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "jeffrey": lambda u: (u - 1) * u.log(),
    "jensen-shannon": lambda u: XLOGX(u, u) - (u + 1) * ((u + 1) / 2).log(),
    "weighted-jensen-shannon": lambda u: PI * XLOGX(u, u) - (1 - PI + PI * u) * (1 - PI + PI * u).log(),
    "gan": lambda u: XLOGX(u, u) - (u + 1) * (u + 1).log(),
}


def divergence(name: str) -> Divergence:
    return WeightedJensenShannon(PI) if name == "weighted-jensen-shannon" else DIVERGENCES[name]()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_conjugates_are_the_suprema_that_define_them(name):
    v = torch.linspace(-4, 4, 17, dtype=torch.float64)
    u = torch.logspace(-9, 9, 40001, dtype=torch.float64, base=10)
    t = divergence(name).activation(v)
    assert (t.diff() > 0).all(), "a larger logit must mean: more real"
    supremum = (t[:, None] * u - GENERATING[name](u)).amax(1)
    torch.testing.assert_close(divergence(name).conjugate(v), supremum, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_best_critic_finds_the_divergence(name):
    """Two distributions over three outcomes: with T = f'(p/q), E_P[T] - E_Q[f*(T)] is sum q f(p/q), at most."""
    p, q = torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([0.5, 0.4, 0.1]).double()
    kind, truth = divergence(name), (q * GENERATING[name](p / q)).sum().item()
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def gap() -> Tensor:
        return (q * kind.conjugate(logits)).sum() - (p * kind.activation(logits)).sum()

    search = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> Tensor:
        search.zero_grad()
        loss = gap()
        loss.backward()
        return loss

    search.step(closure)
    assert -gap().item() == pytest.approx(truth, abs=1e-5)
    assert -gap().item() <= truth + 1e-12


@pytest.mark.parametrize("name", DIVERGENCES)
def test_extreme_logits_stay_finite(name):
    logits = torch.tensor([-60.0, 60.0], requires_grad=True)
    kind = divergence(name)
    (slope,) = torch.autograd.grad(kind.conjugate(logits).sum() + kind.activation(logits).sum(), logits)
    assert torch.isfinite(kind.conjugate(logits)).all()
    assert torch.isfinite(slope).all()


def test_wright_omega_is_lamberts_function_of_the_exponential():
    special = pytest.importorskip("scipy.special")
    y = torch.cat((torch.linspace(-30, 5, 71), torch.logspace(1, 5, 9))).double()
    expected = torch.from_numpy(special.wrightomega(y.numpy()))
    torch.testing.assert_close(wright_omega(y), expected, rtol=1e-13, atol=0)
    inputs = torch.tensor([-3.0, 0.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(wright_omega, inputs)
    assert torch.autograd.gradgradcheck(wright_omega, inputs)
