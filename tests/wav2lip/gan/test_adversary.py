"""Adversarial training steps of critic and generator."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from tests.processes import two_ranks
from training.options import parse_options
from wav2lip.gan.adversary import Adversary, AdversaryRecipe
from wav2lip.gan.adversary_recipe import build_critic, critic_view
from wav2lip.gan.autoencoder import AutoencoderCritic
from wav2lip.gan.critics import PatchCritic
from wav2lip.gan.objectives import OBJECTIVES, objective
from wav2lip.generator.losses import LossWeights
from wav2lip.generator.model import GeneratorConfig


@dataclass(frozen=True)
class Layout:
    """Size and mask row of the frames that the critic sees."""

    size: int
    mask_row: int


CONFIG = Layout(64, 27)
PATCH = AdversaryRecipe("patch", width=4, depth=2)
SMALL = {
    "patch": PATCH,
    "mouth": replace(PATCH, region="mouth", conditional=False),
    "clip": AdversaryRecipe("clip", width=4, depth=3),
    "autoencoder": AdversaryRecipe("autoencoder", "began", width=2),
}
BOTH = LossWeights(adversarial=0.1, feature_matching=1.0)


def windows(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Real, generated and masked windows."""
    real, fake = torch.rand(2, count, 3, 5, 64, 64, generator=torch.manual_seed(0))
    masked = real.clone()
    masked[..., 27:, :] = 0
    return real, fake.requires_grad_(), masked


def adversary(recipe: AdversaryRecipe, seed: int = 0, precision: str = "32-true") -> Adversary:
    return Adversary(recipe, CONFIG, Fabric(accelerator="cpu", precision=precision), seed)


def snapshot(ours: Adversary) -> dict[str, Tensor]:
    return copy.deepcopy(ours.network.state_dict())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("name", "unroll"), [("patch", 0), ("patch", 2), ("mouth", 0), ("clip", 0), ("clip", 1), ("autoencoder", 0)]
)
def test_the_generators_turn_leaves_the_critic_as_it_was(name, unroll):
    ours = adversary(replace(SMALL[name], unroll=unroll))
    real, fake, masked = windows(1)
    before = snapshot(ours)
    losses = ours.generator_losses(real, fake, masked, BOTH)
    assert list(losses) == ["adversarial", "feature_matching"]
    for loss in losses.values():
        (slope,) = torch.autograd.grad(loss, fake, retain_graph=True)
        assert slope.abs().max() > 0
    sum(losses.values()).backward()
    assert equal(snapshot(ours), before)
    assert all(weight.grad is None and weight.requires_grad for weight in ours.network.parameters())
    assert ours.network.training


def test_a_loss_without_a_weight_is_not_computed():
    ours, (real, fake, masked) = adversary(PATCH), windows()
    assert list(ours.generator_losses(real, fake, masked, LossWeights(adversarial=1.0))) == ["adversarial"]
    assert list(ours.generator_losses(real, fake, masked, LossWeights(feature_matching=1.0))) == ["feature_matching"]


@pytest.mark.parametrize("name", SMALL)
def test_the_critics_turn_changes_the_critic_alone(name):
    ours, (real, fake, masked) = adversary(SMALL[name]), windows(1)
    before, drawn = snapshot(ours), torch.get_rng_state()
    found = ours.train_critic(real, fake, masked, 0)
    assert set(found) == {"critic", "real", "fake", "critic_norm"}
    assert not any(value.requires_grad for value in found.values())
    assert fake.grad is None
    after = snapshot(ours)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert torch.equal(torch.get_rng_state(), drawn)  # others' random numbers are not used up


def test_the_turns_are_the_objectives():
    """Without augmentation, compared with the critic and the objective called directly."""
    ours = adversary(replace(PATCH, augment=False, spectral=False, conditional=False))
    aim, critic, (real, fake, masked) = objective("hinge"), copy.deepcopy(ours.network), windows()
    of_real, of_fake = (critic.logits_and_features(x[:, :, :, 27:]) for x in (real, fake))
    losses = ours.generator_losses(real, fake, masked, BOTH)
    torch.testing.assert_close(losses["adversarial"], -of_fake[0].mean())
    apart = [(a - b).abs().mean() for a, b in zip(of_real[1], of_fake[1], strict=True)]
    torch.testing.assert_close(losses["feature_matching"], sum(apart))
    assert ours.generator_losses(real, real, masked, BOTH)["feature_matching"] == 0
    found = ours.train_critic(real, fake, masked, 0)
    loss = aim.critic_loss(of_real[0], of_fake[0])
    assert found["critic"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert [found[name].item() for name in ("real", "fake")] == pytest.approx(
        [of_real[0].mean().item(), of_fake[0].mean().item()], rel=1e-4
    )
    loss.backward()
    for ours_, theirs in zip(ours.network.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(ours_.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_real_generated_and_masked_are_augmented_alike(monkeypatch):
    seen: list[Tensor] = []
    monkeypatch.setattr(
        PatchCritic, "logits_and_features", lambda self, *given: seen.extend(given) or (self.head.bias[[0] * 20], [])
    )
    ours, (real, _, _) = adversary(replace(PATCH, spectral=False)), windows()
    seen.clear()
    ours.train_critic(real, real, real, 0)  # the same image as all three
    images, masked = seen[0], seen[1]
    assert images.shape == (20, 3, 37, 64)
    assert torch.equal(images[:10], images[10:])
    assert torch.equal(images, masked)
    bare = real[:, :, :, 27:].transpose(1, 2).flatten(0, 1)
    assert not torch.equal(images[:10], bare)
    ours.train_critic(real, real, real, 1)
    assert not torch.equal(seen[2], images)  # anew each time
    ours.generator_losses(real, real, real, LossWeights(adversarial=1.0))
    assert torch.equal(seen[4], seen[5])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_a_critic(name):
    aim = objective(name)
    recipe = replace(SMALL["autoencoder" if aim.energies else "patch"], objective=name, spectral=False, width=2)
    ours, (real, fake, masked) = adversary(recipe), windows(1)
    losses = ours.generator_losses(real, fake, masked, BOTH)
    sum(losses.values()).backward()
    before = snapshot(ours)
    found = ours.train_critic(real, fake, masked, 0)
    assert all(torch.isfinite(value) for value in (*found.values(), *losses.values()))
    assert fake.grad.abs().max() > 0
    assert not equal(snapshot(ours), before)
    assert ("penalty" in found) == (name in ("wgan-gp", "dragan"))
    assert ours.optimizer.param_groups[0]["lr"] == aim.optimizer_defaults.lr
    assert (ours.draws - 1) == ours.critic_steps == (5 if name.startswith("wgan") else 1)


@pytest.mark.parametrize("name", ["patch", "clip"])
def test_a_trained_critic_tells_real_from_generated(name):
    """The generator's gradient points from one to the other."""
    ours = adversary(replace(SMALL[name], lr=2e-3, spectral=False, augment=False))
    real = torch.full((1, 3, 5, 64, 64), 0.7)
    fake, masked = torch.full_like(real, 0.3).requires_grad_(), torch.zeros_like(real)
    found = [ours.train_critic(real, fake, masked, step) for step in range(15)]
    assert found[-1]["critic"] < 0.9 * found[0]["critic"]
    assert found[-1]["real"] > found[-1]["fake"] + 0.1
    (slope,) = torch.autograd.grad(ours.generator_losses(real, fake, masked, BOTH)["adversarial"], fake)
    assert slope.sum() < 0


def test_began_remembers_the_balance():
    ours, (real, fake, masked) = adversary(SMALL["autoencoder"]), windows(1)
    found = ours.train_critic(real, fake * 0 + 0.5, masked, 0)
    k = 1e-3 * (0.5 * found["real"] - found["fake"])
    assert ours.objective.k.item() == pytest.approx(max(0.0, k.item()))
    ours.objective.k.fill_(0.25)
    again = adversary(SMALL["autoencoder"])
    again.load_state_dict(ours.state_dict())
    assert again.objective.k == 0.25


def test_r1_is_paid_every_few_steps_and_then_for_all_of_them():
    """A critic w x with one weight per pixel: its gradient is w, so R1 is gamma / 2 |w|^2 an image and frame."""
    recipe = AdversaryRecipe(
        "patch", width=1, depth=1, conditional=False, spectral=False, augment=False, r1=2.0, r1_every=3, lr=1e-9
    )  # fmt: skip
    ours, (real, fake, masked) = adversary(recipe), windows(1)
    found = [ours.train_critic(real, fake, masked, step) for step in range(5)]
    assert ["r1" in each for each in found] == [True, False, False, True, False]
    x = real[:, :, :, 27:].transpose(1, 2).flatten(0, 1).requires_grad_()
    (slope,) = torch.autograd.grad(ours.network(x).flatten(1).mean(1).sum(), x)
    assert found[0]["r1"].item() == pytest.approx(slope.square().sum().item() / len(x), rel=1e-4)
    weight = ours.network.head.weight
    ours.train_critic(real, fake, masked, 1)
    plain = weight.grad.clone()
    ours.train_critic(real, fake, masked, 3)
    paid = weight.grad - plain
    ours.recipe = replace(recipe, r1_every=1)
    ours.train_critic(real, fake, masked, 1)
    torch.testing.assert_close(paid, 3 * (weight.grad - plain), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("recipe", [
    replace(PATCH, r1=1.0, r1_every=2),
    replace(PATCH, objective="wgan-gp", critic_steps=2, unroll=1, depth=1),
    replace(SMALL["autoencoder"], spectral=False),
])  # fmt: skip
def test_a_run_that_was_stopped_goes_on_bit_for_bit(recipe, tmp_path):
    real, fake, masked = windows(1)

    def steps(ours: Adversary, todo: range) -> Tensor:
        for step in todo:
            losses = ours.generator_losses(real, fake, masked, BOTH)
            ours.train_critic(real, fake * (1 - step / 9), masked, step)
        return torch.stack(list(losses.values())).detach()

    whole, first, second = adversary(recipe), adversary(recipe), adversary(recipe, seed=0)
    expected = steps(whole, range(3))
    steps(first, range(2))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    torch.rand(7)  # what others draw does not matter
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(steps(second, range(2, 3)), expected)
    assert equal(snapshot(second), snapshot(whole))
    other = adversary(recipe, seed=1)
    assert not torch.equal(steps(other, range(3)), expected)


def test_16_bits_leave_losses_and_penalties_at_32():
    recipe = replace(PATCH, objective="wgan-gp", r1=1.0, r1_every=1, critic_steps=1)
    ours, exact = adversary(recipe, precision="bf16-mixed"), adversary(recipe)
    real, fake, masked = windows()
    losses = [each.generator_losses(real, fake, masked, BOTH) for each in (ours, exact)]
    sum(losses[0].values()).backward()
    found, wanted = (each.train_critic(real, fake, masked, 0) for each in (ours, exact))
    assert {x.dtype for x in (*losses[0].values(), *found.values(), *ours.network.parameters())} == {torch.float32}
    for name in ("penalty", "r1"):
        assert found[name].item() == pytest.approx(wanted[name].item(), rel=1e-6)
    assert found["critic"].item() == pytest.approx(wanted["critic"].item(), abs=0.01)
    assert found["critic"] != wanted["critic"]  # the logits do come from 16 bits


def test_what_the_critics_see():
    images = torch.rand(1, 3, 5, 128, 128)
    config = Layout(128, 53)
    whole = replace(PATCH, region="whole")
    assert torch.equal(critic_view(whole, config, images), images)
    assert torch.equal(critic_view(PATCH, config, images), images[..., 53:, :])
    mouth = critic_view(SMALL["mouth"], config, images)
    assert torch.equal(mouth, images[..., 42:101, 35:94])  # 59 wide about (64, 71.5)
    assert critic_view(AdversaryRecipe("released", "minimax"), config, images).shape[-2:] == (96, 96)
    ramp = torch.linspace(0, 1, 75)[:, None].expand(1, 3, 5, 75, 128)
    lower = torch.cat((torch.zeros(1, 3, 5, 53, 128), ramp), dim=3)
    square = critic_view(SMALL["autoencoder"], config, lower)
    assert square.shape == (1, 3, 5, 96, 96)  # as many pixels as 75 x 128, in eights
    assert torch.allclose(square[0, 0, 0, :, 0], torch.linspace(0, 1, 96), atol=0.01)
    critic = build_critic(replace(SMALL["autoencoder"], region="mouth"), config)
    assert isinstance(critic, AutoencoderCritic)
    assert critic.size == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic": "pixel"}, "critic must be one of none, released, patch, clip, autoencoder, not 'pixel'"),
        ({"region": "nose"}, "region must be one of masked, mouth, whole, not 'nose'"),
        ({"objective": "gan2"}, "unknown objective 'gan2'"),
        ({"critic": "patch", "objective": "began"}, "began needs the critic autoencoder, .*, not 'patch'"),
        ({"critic": "autoencoder"}, "hinge needs the critic released, patch or clip, not 'autoencoder'"),
        ({"critic": "patch", "objective": "wgan"}, "set spectral to false"),
        ({"critic": "released", "region": "mouth"}, "masked or whole"),
        ({"depth": 0}, "depth must be 1 or more, not 0"),
        ({"critic_steps": 0}, "critic_steps must be 1 or more, not 0"),
        ({"lr": 0.0}, r"lr must be above 0, not 0\.0"),
        ({"r1": -1.0}, "r1 must be 0 or more"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdversaryRecipe(**options)


def test_a_region_too_small_is_refused_at_once():
    with pytest.raises(ValueError, match="sides of at least 48"):
        adversary(replace(PATCH, depth=4, region="mouth"))
    with pytest.raises(ValueError, match="the recipe has no critic; choose one of released, patch"):
        adversary(AdversaryRecipe())


def test_the_recipe_can_be_given_as_flags():
    words = ["clips", "--critic", "patch", "--lr", "1e-4", "--r1", "2"]
    (recipe,) = parse_options(words, "x", None, AdversaryRecipe)[1]
    assert recipe == AdversaryRecipe("patch", lr=1e-4, r1=2.0)


def keep_one_critic(folder: Path) -> None:
    """Two steps of a critic by one of two processes; each writes what its weights have become."""
    recipe = AdversaryRecipe("patch", "wgan-gp", width=4, depth=2, r1=1.0, r1_every=2, unroll=1, critic_steps=2)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    ours = Adversary(recipe, GeneratorConfig(mask_row=40), fabric, 0)
    torch.manual_seed(fabric.global_rank)
    real, fake, masked = torch.rand(3, 1, 3, 5, 96, 96)
    for step in range(2):
        losses = ours.generator_losses(real, fake.requires_grad_(), masked, LossWeights(adversarial=1.0))
        losses["adversarial"].backward()
        found = ours.train_critic(real, fake, masked, step)
    sums = [p.detach().double().sum().item() for p in ours.network.parameters()]
    (folder / f"{fabric.global_rank}.json").write_text(json.dumps([sums, found["real"].item(), real.sum().item()]))


def test_two_processes_keep_one_critic(tmp_path):
    two_ranks(keep_one_critic, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first[:2] == second[:2]
    assert first[2] != second[2]  # each saw pictures of its own
