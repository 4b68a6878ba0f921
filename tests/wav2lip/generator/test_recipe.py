"""Generator recipes: shipped recipes, learning rates and invalid combinations."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from preprocessing.dataset.augmentation import Augmentation
from syncnet.sync_expert import EXPERT
from tests.material import write_talking_clips
from training.engine import Engine
from training.options import parse_options
from wav2lip.gan.adversary_recipe import AdversaryRecipe
from wav2lip.generator.checkpoints import load_generator
from wav2lip.generator.losses import LossWeights
from wav2lip.generator.model import GeneratorConfig
from wav2lip.generator.recipe import GeneratorRecipe, build_optimizer
from wav2lip.train import GeneratorTrainOptions, main

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[3]


def recipe_of(*words: str) -> GeneratorRecipe:
    return parse_options(["clips", "--out", "run", *words], "x", None, GeneratorTrainOptions, GeneratorRecipe, Engine)[
        1
    ][1]


ORIGINAL = ROOT / "configs" / "wav2lip-original.yaml"
SHIPPED = ["--config", str(ORIGINAL)]


def test_rates_by_hand():
    recipe = GeneratorRecipe(lr=1e-3, warmup_steps=100, steps=1000)
    assert recipe.lr_at(0) == pytest.approx(1e-5)  # a hundredth of the way up
    assert recipe.lr_at(500) == pytest.approx(0.51e-3)  # half way down to a fiftieth
    assert recipe.lr_at(1000) == recipe.lr_at(2000) == pytest.approx(2e-5)
    steady = replace(recipe, schedule="constant")
    assert [steady.lr_at(step) for step in (0, 49, 99, 1000)] == pytest.approx([1e-5, 5e-4, 1e-3, 1e-3])
    assert replace(steady, warmup_steps=0).lr_at(0) == 1e-3


def test_the_average_follows_closely_at_first():
    recipe = GeneratorRecipe(ema=0.99)
    assert [recipe.ema_decay_at(step) for step in (0, 90, 10_000)] == [1 / 10, 91 / 100, 0.99]
    assert replace(recipe, ema=0.0).ema_decay_at(5) == 0


def test_the_optimiser_that_is_asked_for_learns_what_may_be_learnt():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    optimizer = build_optimizer(GeneratorRecipe(weight_decay=0.3, lr=1e-5, betas=(0.5, 0.7)), network)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {name: optimizer.defaults[name] for name in ("weight_decay", "lr", "betas")} == {
        "weight_decay": 0.3, "lr": 1e-5, "betas": (0.5, 0.7),
    }  # fmt: skip
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(network[0].parameters())
    assert type(build_optimizer(GeneratorRecipe(optimizer="adam"), network)) is torch.optim.Adam


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows_per_step": 0}, "windows_per_step must be 1 or more, not 0"),
        ({"windows_per_step": 6, "accumulate": 4}, "accumulate 4 does not divide windows_per_step 6"),
        ({"lr": -1.0}, r"lr must be 0 or more, not -1\.0"),
        ({"lr": float("nan")}, "lr must be 0 or more, not nan"),
        ({"ema": 1.0}, r"ema must be at least 0 and below 1, not 1\.0"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers of at least 0 and below 1, not \(0\.9, 1\.0\)"),
        ({"sync_start": -1}, "sync_start must be 0 or more, or null, not -1"),
        ({"adversary": AdversaryRecipe("patch")}, "critic needs a weight .* 'patch', weights.adversarial 0.0"),
        (
            {"weights": LossWeights(adversarial=0.1)},
            "vice versa, not adversary.critic 'none', .*adversarial 0.1",
        ),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GeneratorRecipe(**changes)


def test_options_reach_the_field_they_name(tmp_path):
    (tmp_path / "some.yaml").write_text("lr: 1e-4\nweights: {sync: 0.5}\nsampling: {augmentation: {shift: 3}}\n")
    words = ["--config", str(tmp_path / "some.yaml"), "--sync-start", "7", "--betas", "[0.5,0.6]"]
    recipe = recipe_of(*words, "--adversary.critic", "clip", "--weights.adversarial=0.1")
    assert (recipe.lr, recipe.sync_start, recipe.betas) == (1e-4, 7, (0.5, 0.6))
    assert recipe.weights == LossWeights(sync=0.5, adversarial=0.1)
    assert recipe.adversary == AdversaryRecipe("clip")
    usual = GeneratorRecipe().sampling
    assert recipe.sampling == replace(usual, augmentation=replace(usual.augmentation, shift=3))


def said(recipe: Any, given: Any) -> None:
    assert given.keys() == {item.name for item in fields(recipe)}
    for name, value in given.items():
        if is_dataclass(getattr(recipe, name)):
            said(getattr(recipe, name), value)


def test_the_shipped_recipe_says_everything():
    import yaml  # a dependency of jsonargparse

    said(GeneratorRecipe(), yaml.safe_load(ORIGINAL.read_text()))


def test_the_published_recipe_is_the_published_one():
    recipe = recipe_of(*SHIPPED)
    assert recipe.generator == GeneratorConfig()  # 96 pixels, of which the lower half is hidden
    assert recipe.sampling.augmentation == Augmentation.none()
    assert (recipe.sampling.reference, recipe.windows_per_step) == ("random", 16)
    assert (recipe.optimizer, recipe.lr, recipe.betas, recipe.schedule) == ("adam", 1e-4, (0.5, 0.999), "constant")
    assert (recipe.weight_decay, recipe.clip_gradient, recipe.warmup_steps, recipe.ema) == (0, 0, 0, 0)
    weights = {"l1": 0.9, "sync": 0.03, "adversarial": 0.07, "mouth": 1}
    assert recipe.weights == LossWeights(**dict.fromkeys((item.name for item in fields(LossWeights)), 0.0) | weights)
    critic = recipe.adversary
    assert (critic.critic, critic.objective, critic.lr, critic.r1) == ("released", "non-saturating", 1e-4, 0)
    assert not critic.augment
    assert not critic.spectral
    # Its first stage, as its comment says:
    stage = ["--adversary.critic", "none", "--weights.adversarial", "0", "--weights.l1", "0.99"]
    stage += ["--weights.sync", "0.01", "--betas", "[0.9,0.999]"]
    assert recipe_of(*SHIPPED, *stage).betas == (0.9, 0.999)


def test_the_shipped_recipe_trains_a_generator_that_opens(tmp_path):
    (tmp_path / "clips").mkdir()
    clips = write_talking_clips(tmp_path / "clips")
    words = [str(clips), "--expert", str(EXPERT), "--out", str(tmp_path / "run"), *SHIPPED]
    words += ["--windows-per-step", "1", "--steps", "1", "--accelerator", "cpu", "--precision", "32-true"]
    assert main([*words, "--sync-start", "0"]) == 0
    generator, _, geometry = load_generator(tmp_path / "run" / "generator.safetensors")
    recipe = recipe_of(*SHIPPED)
    assert generator.config == recipe.generator
    assert (geometry.kind, geometry.size) == ("points", recipe.generator.size)
    again = recipe_of("--config", str(tmp_path / "run" / "config.json"))
    assert replace(again, windows_per_step=recipe.windows_per_step, steps=recipe.steps, sync_start=None) == recipe
    (tmp_path / "run" / "state.pt").unlink()  # 700 MB
