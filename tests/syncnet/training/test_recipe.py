"""Sync expert recipes: shipped recipes, learning rates, networks and invalid combinations."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from preprocessing.dataset.augmentation import Augmentation
from preprocessing.dataset.windows import CropRegion
from syncnet.model import SmallSyncNet
from syncnet.sync_expert import EXPERT, JUDGE, SyncExpert
from syncnet.train import SyncNetTrainOptions
from syncnet.training.recipe import LowerHalfSyncNet, SyncNetRecipe, build_network, build_optimizer, one_cycle
from training.engine import Engine
from training.options import parse_options

ROOT = Path(__file__).parents[3]


def test_the_released_network_sees_the_lower_half():
    torch.manual_seed(0)
    network = LowerHalfSyncNet().eval()
    mel, faces = torch.rand(2, 1, 80, 16) * 8 - 4, torch.rand(2, 15, 96, 96)
    with torch.inference_mode():
        ours, theirs = network(mel, faces), network.released(mel, faces[:, :, 48:])
        assert torch.equal(network.embed_mel(mel), ours[0])
        assert torch.equal(network.embed_faces(faces), ours[1])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_rates_by_hand():
    assert [one_cycle(done) for done in (0, 0.15, 1)] == pytest.approx([0.04, 1, 0])
    assert one_cycle(0.075) == pytest.approx(0.52)  # half way up
    assert one_cycle(0.575) == pytest.approx(0.5)  # half way down
    long, short = SyncNetRecipe(lr=2e-3, steps=4000), SyncNetRecipe(lr=2e-3, steps=200)
    assert [long.lr_at(step) for step in (0, 600, 2300)] == pytest.approx([8e-5, 2e-3, 1e-3])  # up to 15 %
    assert replace(long, steps=1000).lr_at(400) == pytest.approx(2e-3)  # up for 400 steps
    assert [short.lr_at(step) for step in (0, 50, 100, 150)] == pytest.approx([8e-5, 1.04e-3, 2e-3, 1e-3])  # half
    assert replace(long, schedule="constant").lr_at(77) == 2e-3


def test_what_is_asked_for_is_built():
    network = build_network(SyncNetRecipe(dimension=24, region=CropRegion(size=48), dropout=0.2))
    assert isinstance(network, SmallSyncNet)
    assert network.config == {"dimension": 24, "mouth_size": 48, "norm": "layer", "dropout": 0.2}
    assert network.log_scale.requires_grad
    assert not build_network(SyncNetRecipe(loss="bce", windows_per_clip=2, window_stride=5)).log_scale.requires_grad
    optimizer = build_optimizer(SyncNetRecipe(weight_decay=0.3, lr=1e-5), network)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["weight_decay"], optimizer.defaults["lr"]) == (0.3, 1e-5)
    plain = build_optimizer(SyncNetRecipe(optimizer="adam"), network)
    assert type(plain) is torch.optim.Adam
    assert plain.defaults["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "released"}, "dimension 512, region.size 96 and dropout 0, not 256, 64 and 0.0"),
        ({"loss": "bce"}, "needs windows_per_clip 2 and window_stride 5 or more, .* not 16 and 2"),
        ({"loss": "bce", "windows_per_clip": 2, "window_stride": 4}, "not 2 and 4"),
        ({"windows_per_clip": 1}, "windows_per_clip must be 2 or more, not 1"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"lr": -1e-3}, "lr must be 0 or more, not -0.001"),
        ({"dropout": 1.0}, "dropout must be below 1, not 1.0"),
        ({"region": CropRegion(0.5, 0.5, 0.6, 64)}, "region must lie within the crop"),
        ({"region": CropRegion(size=16)}, "region must .* size of 32 or more"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SyncNetRecipe(**changes)


def recipe_of(*words: str) -> SyncNetRecipe:
    return parse_options(["clips", "--out", "run", *words], "x", None, SyncNetTrainOptions, SyncNetRecipe, Engine)[1][1]


def test_the_shipped_recipes_say_everything():
    import yaml  # a dependency of jsonargparse

    for name in ("laptop", "judge", "syncnet-original"):
        given = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
        assert given.keys() == {item.name for item in fields(SyncNetRecipe)}
        assert given["augmentation"].keys() == {item.name for item in fields(Augmentation)}
    assert recipe_of("--config", str(ROOT / "configs/laptop.yaml")) == recipe_of() == SyncNetRecipe()


def test_the_shipped_experts_are_two_that_do_not_look_alike():
    expert, judge = SyncExpert.load(EXPERT), SyncExpert.load(JUDGE)
    ours, theirs = (recipe_of("--config", str(ROOT / f"configs/{name}.yaml")) for name in ("laptop", "judge"))
    assert (expert.region, judge.region) == (ours.region, theirs.region)
    assert expert.region.size != judge.region.size
    assert ours.seed != theirs.seed
    assert ours.augmentation != theirs.augmentation
    assert all(path.stat().st_size < 10e6 for path in (EXPERT, JUDGE))


def test_the_published_recipe_is_the_published_one():
    recipe = recipe_of("--config", str(ROOT / "configs/syncnet-original.yaml"))
    assert recipe.augmentation == Augmentation.none()
    assert (recipe.network, recipe.loss, recipe.clips_per_step) == ("released", "bce", 64)
    assert (recipe.optimizer, recipe.lr, recipe.schedule) == ("adam", 1e-4, "constant")
    assert (recipe.weight_decay, recipe.clip_gradient, recipe.dropout) == (0, 0, 0)


def test_flags_change_one_field_of_many(tmp_path):
    (tmp_path / "some.yaml").write_text("lr: 1e-4\naugmentation: {shift: 3, bands: [1, 5]}\n")
    recipe = recipe_of("--config", str(tmp_path / "some.yaml"), "--region.size=32", "--augmentation.turn", "2")
    changes = replace(SyncNetRecipe().augmentation, shift=3, bands=(1, 5), turn=2)
    assert recipe == replace(
        SyncNetRecipe(), lr=1e-4, augmentation=changes, region=replace(SyncNetRecipe().region, size=32)
    )
