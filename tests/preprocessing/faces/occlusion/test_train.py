"""Training of the occlusion network: it learns, resumes exactly, and refuses what it cannot use."""

import json

import cv2
import numpy as np
import pytest
import torch

from preprocessing.faces.landmarks.predictor import load_landmarks
from preprocessing.faces.landmarks.training.crops import SIZE, crop_view, open_crops
from preprocessing.faces.mesh import HeadPose
from preprocessing.faces.occlusion import train
from preprocessing.faces.occlusion.model import OcclusionConfig, load_occlusion
from preprocessing.faces.occlusion.training.examples import OcclusionAugmentation, OcclusionExamples
from tests.preprocessing.faces.landmarks.portrait import BOX, portrait
from training.engine import Engine

SMALL = [
    "--network.widths=[4,4,8,8]",
    "--batch=2",
    "--precision=32-true",
    "--warmup=2",
    "--validate_every=2",
    "--log_every=1",
]


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """A folder with the crops of the portrait for training and validation."""
    folder, network = tmp_path_factory.mktemp("crops"), load_landmarks()
    points = network(portrait(), network(portrait(), BOX)).points.astype(np.float64)
    view = crop_view(HeadPose.of(points))
    for part in ("train", "val"):
        (folder / part).mkdir()
        np.save(folder / part / "images.npy", view.crop(portrait(), SIZE)[None])
        np.save(folder / part / "points.npy", view.to_crop(points, SIZE)[None].astype(np.float32))
        np.save(folder / part / "persons.npy", np.array(["portrait"]))
        background = cv2.resize(portrait()[300:, 300:], (120, 120))
        np.save(folder / part / "background.npy", background[None])
        (folder / part / "done.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def few_examples(monkeypatch):
    monkeypatch.setattr(train, "VALIDATION", 2)


def run(crops, out, *flags) -> int:
    return train.main([f"--crops={crops}", f"--out={out}", *SMALL, *flags])


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(crops, tmp_path, monkeypatch):
    assert run(crops, tmp_path / "whole", "--steps=4") == 0
    real = train.train_step

    def stopped(state, *batch):
        if state.step == 3:
            raise KeyboardInterrupt
        return real(state, *batch)

    monkeypatch.setattr(train, "train_step", stopped)
    assert run(crops, tmp_path / "parts", "--steps=4") == 130
    monkeypatch.setattr(train, "train_step", real)
    assert run(crops, tmp_path / "parts", "--steps=4") == 0
    whole, parts = (load_occlusion(tmp_path / name / "occlusion.safetensors") for name in ("whole", "parts"))
    for ours, theirs in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "val_iou" in line] == [2, 4]


def test_steps_on_one_batch_reduce_its_loss(crops):
    recipe = train.OcclusionRecipe(OcclusionConfig((4, 4, 8, 8)), steps=100, warmup=2, lr=1e-2)
    state = train.start(recipe, Engine(precision="32-true", accelerator="cpu").launch())
    examples = OcclusionExamples(open_crops(crops / "train"), OcclusionAugmentation(free=0))
    batch = train.batch_of(examples, np.zeros(4, int), np.random.default_rng(0))
    losses = [train.train_step(state, *batch) for _ in range(30)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("flag", "said"), [("--batch=0", "batch must be 1 or more"), ("--network.widths=[4,8]", "four")]
)
def test_a_wrong_recipe_is_one_line(crops, tmp_path, capsys, flag, said):
    assert run(crops, tmp_path / "out", flag) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_crops_that_are_not_complete_are_refused(tmp_path, capsys):
    assert run(tmp_path, tmp_path / "out") == 2
    assert "complete set of crops" in capsys.readouterr().err
