"""Single steps of the generator's trainer: what they change, and what their losses are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from preprocessing.dataset.augmentation import Augmentation
from preprocessing.dataset.clips import open_clips
from tests.wav2lip.train.material import CPU, CRITIC, SMALL, TINY, changed
from training.engine import Engine
from wav2lip.generator.data import GeneratorBatch, Sampling, collate, sample
from wav2lip.generator.losses import LossWeights
from wav2lip.generator.train_state import create_state
from wav2lip.train import train_step, weighted_losses

pytestmark = pytest.mark.usefixtures("one_thread")


def snapshot(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weight.clone() for key, weight in weights.items()}


def draw(clips: Path, count: int = 2) -> GeneratorBatch:
    clip = open_clips(clips, 10)[0]
    how = Sampling("random", 0.0, 0.0, 0.0, Augmentation.none())
    windows = [sample(clip, np.random.default_rng(n), TINY.size, TINY.mask_row, how) for n in range(count)]
    return collate(windows, TINY.mask_row)


@pytest.mark.parametrize("engine", [CPU, Engine(accelerator="cpu")], ids=["32-true", "bf16-mixed"])
def test_one_step_trains_the_generator_and_nothing_else(clips, expert, engine):
    state, batch = create_state(replace(SMALL, sync_start=0, sync_ramp=0), engine.launch(), expert), draw(clips)
    parts = {"generator": state.generator, "average": state.average, "expert": state.expert.network}
    before = {name: snapshot(part.state_dict()) for name, part in parts.items()}
    losses = train_step(state, [batch], measure=True)
    names = {"l1", "gradient", "sync"}
    others = {"total", "plain", "gradient_norm", "sync_weight"}
    assert losses.keys() == names | {f"gradient_norm/{name}" for name in names} | others
    assert all(torch.isfinite(loss) and not loss.requires_grad for loss in losses.values())
    weights = SMALL.weights
    assert losses["total"].item() == pytest.approx(sum(getattr(weights, name) * losses[name].item() for name in names))
    assert losses["gradient_norm/l1"] > 0
    assert changed(before["generator"], state.generator.state_dict()) == set(before["generator"])
    assert not changed(before["expert"], state.expert.network.state_dict())
    assert not state.expert.network.training
    key, decay = "output_block.1.weight", 1 / 10
    expected = decay * before["average"][key] + (1 - decay) * state.generator.state_dict()[key]
    assert torch.allclose(state.average.state_dict()[key], expected, atol=1e-7)
    assert state.step == 1


def test_the_generator_learns(clips, expert):
    recipe = replace(SMALL, lr=3e-3, schedule="constant")
    state, batch = create_state(recipe, CPU.launch(), expert), draw(clips)
    batch.target *= 0.5  # no copy of the reference will do
    losses = [train_step(state, [batch])["l1"] for _ in range(12)]
    assert losses[-1] < 0.95 * losses[0]


def without_batch_statistics(generator: torch.nn.Module) -> None:
    """Keeps batch norms in eval mode: in training, each part of a step has statistics of its own."""
    for norm in (module for module in generator.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.eval()
        norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign]


def test_a_step_in_parts_is_the_step_as_a_whole(clips, expert):
    batch = draw(clips, 2)
    halves = [GeneratorBatch(*(part.chunk(2)[k] for part in vars(batch).values())) for k in (0, 1)]
    found = []
    for parts in ([batch], halves):
        recipe = replace(SMALL, optimizer="adam", weight_decay=0, clip_gradient=0, sync_start=0, sync_ramp=0)
        state = create_state(recipe, CPU.launch(), expert)
        without_batch_statistics(state.generator)
        losses = train_step(state, parts)
        gradient = torch.cat([p.grad.flatten() for p in state.generator.parameters() if p.grad is not None])
        found.append((losses, gradient))
    (whole, first), (half, second) = found
    assert whole.keys() == half.keys()
    assert all(whole[name].item() == pytest.approx(half[name].item(), rel=1e-4, abs=1e-7) for name in whole)
    assert torch.allclose(first, second, rtol=1e-3, atol=1e-6 * float(first.abs().max()))


@pytest.mark.parametrize("kind", ["log", "bce", "relative"])
def test_the_sync_loss_reaches_the_picture(clips, expert, kind):
    batch = draw(clips)
    recipe = replace(SMALL, weights=LossWeights(l1=1e-9, gradient=0, sync=1), sync=kind, sync_start=0, sync_ramp=0)
    state = create_state(recipe, CPU.launch(), expert)
    picture = batch.faces[:, 3:].clone().requires_grad_()
    losses, factors = weighted_losses(state, batch, picture)
    assert (losses.keys(), factors) == ({"l1", "sync"}, {"l1": 1e-9, "sync": 1})
    (slope,) = torch.autograd.grad(losses["sync"], picture)
    assert slope.abs().max() > 0 or kind == "bce"  # which has no gradient where the cosine is below 0


def test_the_sync_loss_waits_and_comes_in_by_a_ramp(clips, expert):
    recipe = replace(SMALL, sync_start=1, sync_ramp=2, weights=LossWeights(sync=0.2))
    state, batch = create_state(recipe, CPU.launch(), expert), draw(clips)
    steps = [train_step(state, [batch]) for _ in range(4)]
    assert [losses["sync_weight"].item() for losses in steps] == pytest.approx([0, 0, 0.1, 0.2])
    assert ["sync" in losses for losses in steps] == [False, False, True, True]


def test_a_critic_takes_part_when_its_time_has_come(clips, expert):
    recipe = replace(
        SMALL, adversary=replace(CRITIC, start=1), weights=LossWeights(adversarial=0.1, feature_matching=0.1, sync=0)
    )
    state, batch = create_state(recipe, CPU.launch(), expert), draw(clips)
    assert state.adversary is not None
    before = snapshot(state.adversary.network.state_dict())
    assert "adversarial" not in train_step(state, [batch])
    assert not changed(before, state.adversary.network.state_dict())
    losses = train_step(state, [batch], measure=True)
    assert {"adversarial", "feature_matching", "critic", "real", "fake", "gradient_norm/adversarial"} <= losses.keys()
    assert losses["gradient_norm/adversarial"] > 0
    assert changed(before, state.adversary.network.state_dict())
