"""The generator's gradient through unrolled critic steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wav2lip.gan.objectives import objective
from wav2lip.gan.unrolling import unrolled


def test_unrolling_by_hand():
    """Critic w x under WGAN: its loss w (fake - real) has the slope fake - real, so w_1 = w + rate (real - fake).

    The generator's loss -w_1 fake then has the slope -(w + rate (real - 2 fake)) instead of -w.
    """
    critic, aim = nn.Linear(1, 1, bias=False), objective("wgan")
    nn.init.constant_(critic.weight, 0.5)
    real, fake = torch.tensor([[2.0]]), torch.tensor([[0.75]], requires_grad=True)
    gradients = {}
    for steps in (0, 1):
        later = unrolled(critic, lambda c: aim.critic_loss(c(real), c(fake)), steps, lr=0.1)
        (gradients[steps],) = torch.autograd.grad(aim.generator_loss(later(fake)), fake)
    assert gradients[0].item() == pytest.approx(-0.5)
    assert gradients[1].item() == pytest.approx(-(0.5 + 0.1 * (2 - 1.5)))


@pytest.mark.parametrize("name", ["non-saturating", "jeffrey", "weighted-jensen-shannon", "wgan-gp"])
def test_unrolled_gradients_agree_with_finite_differences(name):
    torch.manual_seed(0)
    critic, aim = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double(), objective(name)
    real, fake = torch.randn(3, 2).double(), torch.randn(3, 2).double().requires_grad_()

    def loss(images: Tensor, steps: int = 3) -> Tensor:
        later = unrolled(critic, lambda c: aim.critic_loss(c(real), c(images)), steps, lr=0.3)
        return aim.generator_loss(later(images))

    assert torch.autograd.gradcheck(loss, fake)
    (ahead,), (now,) = (torch.autograd.grad(loss(fake, steps), fake) for steps in (3, 0))
    assert (ahead - now).abs().max() > 0.01 * now.abs().max()


def test_the_unrolled_steps_are_gradient_descent_and_are_undone():
    torch.manual_seed(0)
    critic, aim = nn.Sequential(nn.Linear(2, 4), nn.LeakyReLU(), nn.Linear(4, 1)), objective("hinge")
    nn.utils.parametrizations.spectral_norm(critic[0])  # keeps vectors in buffers, which each forward pass moves
    real, fake = torch.randn(8, 2), torch.randn(8, 2, requires_grad=True)
    critic.requires_grad_(False)  # as in the generator's turn
    before = {name: tensor.clone() for name, tensor in critic.state_dict().items()}
    later = unrolled(critic, lambda c: aim.critic_loss(c(real), c(fake)), steps=2, lr=0.05)
    ahead = later(real)
    aim.generator_loss(later(fake)).backward()
    assert fake.grad.abs().max() > 0
    assert all(weight.grad is None for weight in critic.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in critic.state_dict().items())
    critic.requires_grad_(True)
    sgd = torch.optim.SGD(critic.parameters(), lr=0.05)
    for _ in range(2):
        sgd.zero_grad()
        aim.critic_loss(critic(real), critic(fake.detach())).backward()
        sgd.step()
    torch.testing.assert_close(critic(real), ahead)


@pytest.mark.parametrize(("steps", "lr"), [(-1, 0.1), (1, 0.0)])
def test_impossible_unrolling_is_refused(steps, lr):
    with pytest.raises(ValueError, match="0 or more steps and a learning rate above 0"):
        unrolled(nn.Linear(1, 1), lambda c: c(torch.ones(1)).sum(), steps, lr)
