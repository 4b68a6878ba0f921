"""A small generator's recipe, for the tests of its trainer."""

from __future__ import annotations

import torch
from torch import Tensor

from training.engine import Engine
from wav2lip.gan.adversary_recipe import AdversaryRecipe
from wav2lip.generator.data import Sampling
from wav2lip.generator.model import GeneratorConfig
from wav2lip.generator.recipe import GeneratorRecipe

TINY = GeneratorConfig(width=2, mask_row=40)
SMALL = GeneratorRecipe(
    TINY, Sampling("random", silent=0.0), windows_per_step=2, steps=4, lr=1e-3, warmup_steps=0, seed=3
)
CRITIC = AdversaryRecipe("patch", width=4, depth=2, r1=1.0, r1_every=2)
CPU = Engine(accelerator="cpu", precision="32-true")


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key, weight in before.items() if not torch.equal(weight, after[key])}
