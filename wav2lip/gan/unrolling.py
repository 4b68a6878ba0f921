"""Unrolled critics: the generator answers the critic of some steps later, whose reaction it can foresee."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from preprocessing.errors import UsageError

Critic = Callable[..., Tensor]


def unrolled(critic: nn.Module, critic_loss: Callable[[Critic], Tensor], steps: int, lr: float) -> Critic:
    """The critic as it would be after `steps` steps of its own, through which the generator's gradient flows.

    "Unrolled Generative Adversarial Networks" (Metz et al., 2017, arXiv 1611.02163), equations 6 to 10:
    p_0 = p, p_(k+1) = p_k - rate * d critic_loss(p_k) / d p_k; the generator goes down the gradient of its loss at
    p_steps, which reaches it through its pictures and through every p_k. The critic itself is not touched, neither
    its weights nor its buffers: the steps are undone by forgetting what is returned.

    The inner optimiser is plain gradient descent, as in the paper's equations, for three reasons: it has no state
    that must be copied and taken back; Adam's first step is nearly the gradient's sign, whose derivative says
    nothing; and Adam's square root has no derivative where a gradient is zero, as behind a ReLU that is off.

        later = unrolled(critic, lambda c: aim.critic_loss(c(real), c(fake)), steps=5, rate=1e-2)
        aim.generator_loss(later(fake)).backward()

    Args:
        critic: any module; inside DDP or Fabric, the module that they wrap. All its parameters take the inner steps,
            frozen for the generator's turn or not, and none is left with a gradient.
        critic_loss: the critic's loss, a scalar, of a callable that takes what the critic takes; on the pictures with
            which the generator is about to be trained, not detached.
        steps: 0 or more; 0 gives the critic as it is. Memory and time grow with it.
        rate: the inner steps' learning rate, above 0.

    Raises:
        UsageError: `steps` or `lr` is out of range.
    """
    if steps < 0 or lr <= 0:
        raise UsageError(f"unrolling takes 0 or more steps at a rate above 0, not {steps} steps at {lr}")
    weights = {name: weight.detach().requires_grad_() for name, weight in critic.named_parameters()}
    # A forward pass may write into buffers (the vectors of spectral normalisation): into copies, then.
    buffers = {name: buffer.clone() for name, buffer in critic.named_buffers()}
    for _ in range(steps):
        loss = critic_loss(_with(critic, weights, buffers))
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True, materialize_grads=True)
        weights = {name: weight - lr * slope for (name, weight), slope in zip(weights.items(), slopes, strict=True)}
    return _with(critic, weights, buffers)


def _with(critic: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Critic:
    def later(*inputs: Tensor | None) -> Tensor:
        return functional_call(critic, weights | buffers, inputs)

    return later
