"""Training: crops match the labels, a few steps reduce the loss, and a resumed run equals an uninterrupted one. The
material is a video of the portrait labeled by the bundled network."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks import train
from preprocessing.faces.landmarks.join import join_parts
from preprocessing.faces.landmarks.network_config import NetworkConfig, to_pixels
from preprocessing.faces.landmarks.predictor import load_landmarks
from preprocessing.faces.landmarks.train import LandmarkRecipe, draw_batch, main
from preprocessing.faces.landmarks.training import label
from preprocessing.faces.landmarks.training.augmentation import ExampleMaker, LandmarkAugmentation
from preprocessing.faces.landmarks.training.crops import SIZE as CROP
from preprocessing.faces.landmarks.training.crops import make_crops, open_crops
from preprocessing.faces.landmarks.training.labels import person_shares
from preprocessing.faces.mesh import LIPS_OUTER
from preprocessing.media.video_writer import VideoWriter
from tests.preprocessing.faces.landmarks.portrait import BOX, moved, portrait, turned
from training.engine import Engine
from training.losses import total

SMALL = ["--network.widths=[4,8,8,8]", "--network.depths=[1,1,1]", "--network.squeeze=4", "--network.hidden=16"]
SMALL += ["--network.size=64", "--batch_size=4", "--precision=32-true", "--warmup=5", "--lr=5e-3", "--validate_every=6"]
FRAMES = 24


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with portrait__1.mp4 and portrait__1.npz, its labels."""
    folder = tmp_path_factory.mktemp("material")
    network, found = load_landmarks(), []
    points = network(portrait(), network(portrait(), BOX)).points  # the second look starts from the first one's pose
    with VideoWriter(folder / "portrait__1.mp4", 512, 512, Fraction(25)) as writer:
        for k in range(FRAMES):
            frame, matrix = turned(k - 10.0, 1 + k / 60)
            writer.write(frame)
            found.append(np.column_stack([moved(points[:, :2], matrix), points[:, 2] * (1 + k / 60)]))
    steps, times = label.pack(np.array(found)), np.arange(FRAMES) / 25
    np.savez(folder / "portrait__1.npz", steps=steps, found=np.ones(FRAMES, bool), times=times, frames=FRAMES)
    return folder


def run(material: Path, out: Path, *flags: str) -> int:
    given = [f"--videos={material}", f"--mesh={material}", f"--cache={material / 'cache'}", f"--out={out}"]
    return main([*given, *SMALL, *flags])


def stopping_at(step: int) -> Callable:
    """`train_step`, interrupted at a step."""
    real = train.train_step

    def stopped(state: train.LandmarkTrainState, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        if state.step == step:
            raise KeyboardInterrupt
        return real(state, batch)

    return stopped


def logged(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_crops_show_the_labelled_mouth_upright(material, tmp_path):
    make_crops(material, material, tmp_path, per_person=12)
    crops = open_crops(tmp_path)
    assert crops.images.shape == (len(crops.points), CROP, CROP, 3)
    assert set(crops.persons) == {"portrait"}
    corners = crops.points[:, LIPS_OUTER[[0, 10]], :2]
    across = corners[:, 1] - corners[:, 0]
    assert np.abs(np.degrees(np.arctan2(across[:, 1], across[:, 0]))).max() < 6
    maker = ExampleMaker(crops, NetworkConfig("mouth", 96), LandmarkAugmentation())
    lips = np.stack([to_pixels(maker.plain(row).points, 96) for row in range(len(crops.points))])
    sideways, down = lips[..., :2].mean((0, 1)) - 48
    assert abs(sideways) < 3
    assert -15 < down < 3  # a smile lies above the middle of a mouth at rest


def test_an_unfinished_cache_is_refused(tmp_path):
    with pytest.raises(UsageError, match="complete set of crops"):
        open_crops(tmp_path)


def test_the_same_step_draws_the_same_examples(material, tmp_path):
    make_crops(material, material, tmp_path, per_person=12)
    crops = open_crops(tmp_path)
    maker = ExampleMaker(crops, NetworkConfig(), LandmarkAugmentation(background=0.3, covered=0.5))
    shares = person_shares(crops.persons, 0.5)
    one, same, other = (draw_batch(maker, shares, LandmarkRecipe(batch_size=8), step) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert {1.0, 0.0} <= set(one[2].tolist()) | set(other[2].tolist())


def test_people_with_many_crops_do_not_rule():
    shares = person_shares(np.array(["a"] * 16 + ["b"]), 0.5)
    assert shares.sum() == pytest.approx(1)
    assert shares[:16].sum() / shares[16] == pytest.approx(4)


@pytest.mark.parametrize("part", ["face", "mouth"])
def test_steps_on_one_batch_reduce_its_loss(material, tmp_path, part):
    make_crops(material, material, tmp_path, per_person=12)
    network = NetworkConfig(part, 64, (4, 8, 8, 8), (1, 1, 1), 4, 16)
    recipe = LandmarkRecipe(network=network, batch_size=8, steps=1000, warmup=5, lr=5e-3)
    crops = open_crops(tmp_path)
    maker = ExampleMaker(crops, network, recipe.augmentation)
    batch = draw_batch(maker, person_shares(crops.persons, 1.0), recipe, 0)
    state = train.start(recipe, Engine(accelerator="cpu", precision="32-true").launch(), maker.plain(0).points)
    totals = [total(train.train_step(state, batch), recipe.weights).item() for _ in range(60)]
    assert totals[-1] < 0.5 * totals[0]


def test_a_resumed_run_equals_an_uninterrupted_one(material, tmp_path, monkeypatch):
    flags = ("--steps=12", "--log_every=1", "--average=0.5")
    assert run(material, tmp_path / "whole", *flags) == 0
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", stopping_at(8))
        assert run(material, tmp_path / "parts", *flags) == 130
    assert run(material, tmp_path / "parts", *flags) == 0
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    for part in ("network", "averaged"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name
    assert logged(tmp_path / "whole", "points") == logged(tmp_path / "parts", "points")


def test_another_recipe_is_refused(material, tmp_path, capsys):
    assert run(material, tmp_path / "run", "--steps=6") == 0
    assert run(material, tmp_path / "run", "--steps=6", "--seed=5") == 2
    assert "seed 0, not 5" in capsys.readouterr().err


def test_two_runs_join_into_one_checkpoint(material, tmp_path):
    for part in ("face", "mouth"):
        assert run(material, tmp_path / part, f"--network.part={part}", "--steps=2") == 0
    join_parts(*(tmp_path / part / "network.safetensors" for part in ("face", "mouth")), tmp_path / "both.safetensors")
    found = load_landmarks(tmp_path / "both.safetensors")(portrait(), BOX)
    assert found.points.shape == (206, 3)
    assert np.isfinite(found.points).all()
    with pytest.raises(UsageError, match="landmarks-mouth"):
        join_parts(*[tmp_path / "face" / "network.safetensors"] * 2, tmp_path / "both.safetensors")
