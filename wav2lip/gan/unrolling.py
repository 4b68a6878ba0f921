"""Unrolled GANs: the generator's loss uses the critic as it would be after a few more steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from preprocessing.errors import UsageError

Critic = Callable[..., Tensor]


def unrolled(critic: nn.Module, critic_loss: Callable[[Critic], Tensor], steps: int, lr: float) -> Critic:
    """Returns the critic after `steps` simulated training steps, through which the generator's gradient flows.

    "Unrolled Generative Adversarial Networks" (Metz et al., 2017, arXiv 1611.02163), equations 6 to 10:
    p_0 = p, p_(k+1) = p_k - lr * d critic_loss(p_k) / d p_k; the generator descends the gradient of its loss at
    p_steps, which flows through its images and through every p_k. The critic's own weights and
    buffers are not modified.

    The inner optimizer is plain gradient descent, as in the paper's equations: it has no state to copy and restore;
    Adam's first step is nearly the gradient's sign, whose derivative carries no information; and Adam's square root has
    no derivative at a zero gradient, as behind an inactive ReLU.

        unrolled_critic = unrolled(critic, lambda c: gan.critic_loss(c(real), c(fake)), steps=5, lr=1e-2)
        gan.generator_loss(unrolled_critic(fake)).backward()

    Args:
        critic: any module; with DDP or Fabric, the unwrapped module. All parameters take the inner steps, whether or
            not they are frozen, and none receives a gradient.
        critic_loss: maps a critic-like callable to the critic's scalar loss on the generator's current images, not
            detached.
        steps: 0 or more; with 0 the critic is unchanged. Memory and time grow with it.
        lr: learning rate of the inner steps, above 0.

    Raises:
        UsageError: `steps` or `lr` is out of range.
    """
    if steps < 0 or lr <= 0:
        raise UsageError(f"unrolling needs 0 or more steps and a learning rate above 0, not {steps} and {lr}")
    weights = {name: weight.detach().requires_grad_() for name, weight in critic.named_parameters()}
    # Cloned because a forward pass may modify buffers (the vectors of spectral normalization).
    buffers = {name: buffer.clone() for name, buffer in critic.named_buffers()}
    for _ in range(steps):
        loss = critic_loss(_functional(critic, weights, buffers))
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True, materialize_grads=True)
        weights = {
            name: weight - lr * gradient for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
    return _functional(critic, weights, buffers)


def _functional(critic: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Critic:
    def call(*inputs: Tensor | None) -> Tensor:
        return functional_call(critic, weights | buffers, inputs)

    return call
