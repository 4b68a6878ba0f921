"""The sync expert's trainer on a real face and real speech: every recipe, resuming, several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import syncnet.train
from preprocessing.dataset.clips import Clip, open_clips
from preprocessing.dataset.manifest import ClipRow, write_rows
from preprocessing.dataset.windows import CropRegion
from preprocessing.faces.crops import CropGeometry
from syncnet.model import SmallSyncNet, SyncNet
from syncnet.sync_expert import SyncExpert
from syncnet.train import SyncNetTrainOptions, SyncNetTrainState, main, train, train_step
from syncnet.training.recipe import LowerHalfSyncNet, SyncNetRecipe
from tests.material import change_clip, write_talking_clips
from training.checkpoint import Checkpoint
from training.engine import Engine
from training.options import parse_options

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
MOUTH = CropRegion(16 / 96, 28 / 96, 64 / 96, 32)
SMALL = SyncNetRecipe(region=MOUTH, dimension=16, clips_per_step=2, windows_per_clip=3, steps=4, lr=1e-3, seed=3)
BCE = replace(SMALL, loss="bce", windows_per_clip=2, window_stride=5)
RELEASED = replace(BCE, network="released", region=CropRegion(), dimension=512)
CPU = Engine(accelerator="cpu", precision="32-true")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    return write_talking_clips(tmp_path_factory.mktemp("clips"))


def snapshot(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weight.clone() for key, weight in weights.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key, weight in before.items() if not torch.equal(weight, after[key])}


def batch_of(clips: Path, recipe: SyncNetRecipe) -> list[Tensor]:
    drawn = [recipe.draw(clip, np.random.default_rng(0)) for clip in open_clips(clips)]
    return [torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True)]


def says(values: list[float]) -> Any:
    """Replaces `validate` with a sequence of accuracies."""
    left = iter(values)
    return lambda expert, clips: SimpleNamespace(values=lambda: {"accuracy": next(left)}, curve=np.zeros(31))


@pytest.mark.parametrize("engine", [CPU, Engine(accelerator="cpu")], ids=["32-true", "bf16-mixed"])
def test_one_step_trains_all_of_the_expert(clips, engine):
    recipe = replace(SMALL, schedule="constant")
    state, batch = syncnet.train.create_state(recipe, engine.launch()), batch_of(clips, recipe)
    before = snapshot(state.network.state_dict())
    first = train_step(state, batch)
    assert changed(before, state.network.state_dict()) == set(before)
    assert state.step == 1
    assert first["matching"].dtype == torch.float32
    assert first["scale"].item() == pytest.approx(10, rel=0.01)
    for _ in range(4):
        last = train_step(state, batch)
    assert last["matching"] < first["matching"]


def test_the_published_recipe_trains_the_released_shape(clips):
    recipe = replace(RELEASED, schedule="constant", optimizer="adam", weight_decay=0)
    state, batch = syncnet.train.create_state(recipe, CPU.launch()), batch_of(clips, recipe)
    assert [tuple(part.shape) for part in batch] == [(2, 1, 80, 16), (2, 15, 96, 96), (2,)]
    before = snapshot(state.network.state_dict())
    losses = train_step(state, batch)
    assert losses.keys() == {"bce"}
    assert torch.isfinite(losses["bce"])
    assert "log_scale" not in changed(before, state.network.state_dict())
    assert len(changed(before, state.network.state_dict())) > 0.9 * len(before)


def judged(network: torch.nn.Module, audio: list[list[float]], face: list[list[float]], truth: list[float]) -> float:
    """The loss of given embeddings."""
    state = SimpleNamespace(network=network, forward=lambda mels, mouths: (torch.tensor(audio), torch.tensor(face)))
    found = syncnet.train._bce_losses(state, torch.zeros(2), torch.zeros(2), torch.tensor(truth))  # type: ignore[arg-type]
    return float(found["bce"])


def test_the_probability_of_signed_and_of_positive_embeddings_by_hand():
    audio, face = [[1.0, 0.0], [1.0, 0.0]], [[0.6, 0.8], [0.0, 1.0]]  # cosines 0.6 and 0
    small, released = SmallSyncNet(8, 32), LowerHalfSyncNet()
    assert judged(released, audio, face, [1.0, 0.0]) == pytest.approx(-np.log(0.6) / 2, rel=1e-4)
    assert judged(small, audio, face, [1.0, 0.0]) == pytest.approx(-(np.log(0.8) + np.log(0.5)) / 2, rel=1e-5)
    assert judged(small, audio, face, [0.0, 1.0]) == pytest.approx(-(np.log(0.2) + np.log(0.5)) / 2, rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_training(clips):
    state, batch = syncnet.train.create_state(SMALL, CPU.launch()), batch_of(clips, SMALL)
    batch[0][0, 0, 0, 3, 3] = torch.nan
    before = snapshot(state.network.state_dict())
    with pytest.raises(FloatingPointError, match="nan at step 0"):
        train_step(state, batch)
    assert not changed(before, state.network.state_dict())


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(clips, tmp_path, monkeypatch):
    recipe = replace(SMALL, dropout=0.3)
    flags = {
        name: SyncNetTrainOptions(tmp_path / name, clips, log_every=1, validate_every=2)
        for name in ("whole", "stopped")
    }
    train(clips, recipe, flags["whole"], CPU)
    real = syncnet.train.train_step

    def stopped(state: SyncNetTrainState, batch: list[Tensor]) -> dict[str, Tensor]:
        if state.step == 3:  # the third step was logged, and is lost
            raise KeyboardInterrupt
        return real(state, batch)

    monkeypatch.setattr(syncnet.train, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(clips, recipe, flags["stopped"], CPU)
    torch.manual_seed(99)  # another process starts with other random numbers
    monkeypatch.setattr(syncnet.train, "train_step", real)
    train(clips, recipe, flags["stopped"], CPU)

    whole, again = (torch.load(flag.out / "state.pt", weights_only=True) for flag in flags.values())
    assert whole["step"] == again["step"] == 4
    assert whole["best"] == again["best"] > 0
    assert not changed(whole["network"], again["network"])
    slots = (state["optimizer"]["state"] for state in (whole, again))
    for ours, theirs in zip(*(slot.values() for slot in slots), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    logs = [[json.loads(line) for line in (flag.out / "log.jsonl").read_text().splitlines()] for flag in flags.values()]
    assert [line | {"seconds": 0} for line in logs[0]] == [line | {"seconds": 0} for line in logs[1]]
    assert [line["step"] for line in logs[0]] == [1, 2, 2, 3, 4, 4]
    assert {"accuracy", "pairwise", "offset_within_1"} <= logs[0][2].keys()
    for name in ("syncnet.safetensors", "best.safetensors"):
        kept = [Checkpoint.load(flag.out / name, "small-syncnet") for flag in flags.values()]
        assert kept[0].step == kept[1].step
        assert not changed(kept[0].weights, kept[1].weights)
    assert {"curve.png", "config.json"} <= {path.name for path in flags["stopped"].out.iterdir()}
    train(clips, recipe, flags["stopped"], CPU)  # there is nothing left to do
    assert (flags["stopped"].out / "log.jsonl").read_text().count("\n") == 6


def test_workers_train_the_same_network_and_another_seed_another(clips, tmp_path):
    runs = {"0": (0, 3), "2": (2, 3), "other": (0, 4)}
    for name, (workers, seed) in runs.items():
        train(clips, replace(SMALL, steps=1, seed=seed), SyncNetTrainOptions(tmp_path / name, workers=workers), CPU)
    alone, helped, other = (Checkpoint.load(tmp_path / name / "syncnet.safetensors").weights for name in runs)
    assert not changed(alone, helped)
    assert changed(alone, other) >= set(alone) - {"log_scale"}


def test_the_best_expert_is_kept_and_opens(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(syncnet.train, "validate", says([0.6, 0.7, 0.65, 0.7]))
    train(clips, SMALL, SyncNetTrainOptions(tmp_path, clips, validate_every=1), CPU)
    best, last = (SyncExpert.load(tmp_path / f"{name}.safetensors") for name in ("best", "syncnet"))
    assert (best.step, last.step) == (2, 4)
    assert best.region == last.region == MOUTH
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["accuracy"] == 0.7


def test_a_folders_own_split_is_held_out(clips, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    rows = [
        ClipRow(f"{n}.safetensors", "v.mp4", 0, n, 0.0, 1.6, 40, f"speaker{n}", split, size=96)
        for n, split in enumerate(("val", "train"))
    ]
    write_rows(folder / "manifest.csv", rows)
    drawn: set[str] = set()
    held: list[str] = []

    class Watched(syncnet.train.ShardedDataset):  # type: ignore[type-arg]
        def __init__(self, clips, *rest):
            drawn.update(clip.path.stem for clip in clips)
            super().__init__(clips, *rest)

    def validate(expert, clips):
        held.extend(clip.path.stem for clip in clips)
        return says([0.5])(expert, clips)

    monkeypatch.setattr(syncnet.train, "ShardedDataset", Watched)
    monkeypatch.setattr(syncnet.train, "validate", validate)
    train(folder, replace(SMALL, steps=1), SyncNetTrainOptions(tmp_path / "run"), CPU)
    assert (drawn, held) == ({"1"}, ["0"])


@pytest.mark.parametrize("name", ["laptop", "judge", "syncnet-original"])
def test_the_shipped_recipes_train(name, clips, tmp_path):
    config = ["--config", str(ROOT / "configs" / f"{name}.yaml")]
    small = ["--clips-per-step", "2", "--steps", "2", "--accelerator", "cpu"]
    assert main([str(clips), "--out", str(tmp_path), *config, *small]) == 0
    checkpoint = Checkpoint.load(tmp_path / "syncnet.safetensors")
    assert checkpoint.step == 2
    if name != "syncnet-original":
        assert SyncExpert.load(tmp_path / "syncnet.safetensors").region.size == {"laptop": 64, "judge": 48}[name]
    else:
        assert checkpoint.kind == "syncnet"
        SyncNet().load_state_dict(checkpoint.weights)
        assert checkpoint.crop == {"kind": "points", "region": asdict(CropRegion())}


def recipe_of(*words: str) -> SyncNetRecipe:
    return parse_options(["clips", "--out", "run", *words], "x", None, SyncNetTrainOptions, SyncNetRecipe, Engine)[1][1]


def test_a_runs_config_gives_its_recipe(clips, tmp_path):
    recipe = replace(SMALL, steps=1)
    train(clips, recipe, SyncNetTrainOptions(tmp_path), CPU)
    assert recipe_of("--config", str(tmp_path / "config.json")) == recipe


def test_another_recipe_does_not_go_on_in_the_same_folder(clips, tmp_path):
    recipe = replace(SMALL, steps=1)
    train(clips, recipe, SyncNetTrainOptions(tmp_path), CPU)
    with pytest.raises(ValueError, match=r"has lr 0\.001, not 0\.01: resume with its config\.json"):
        train(clips, replace(recipe, lr=1e-2), SyncNetTrainOptions(tmp_path), CPU)
    train(clips, replace(recipe, steps=2), SyncNetTrainOptions(tmp_path), CPU)  # more of the same is welcome
    assert Checkpoint.load(tmp_path / "syncnet.safetensors").step == 2


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    message = capsys.readouterr().err
    assert message.startswith("syncnet.train: error: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "arguments are required: out, clips"),
        (["clips"], "out"),
        (["clips", "--out", "run", "--network", "huge"], "'small', 'released'"),
        (["clips", "--out", "run", "--networc", "small"], "--networc"),
        (["clips", "--out", "run", "--config", "none.yaml"], "none.yaml"),
        (["clips", "--out", "run", "--augmentation.flip", "3"], "flip must be a share from 0 to 1, not 3"),
        (["clips", "--out", "run", "--validate-every", "0"], "validate_every must be 1 or more"),
        (["clips", "--out", "run", "--devices", "3"], "clips_per_step 8 is not divisible by 3 devices"),
        (["clips", "--out", "run"], "clips"),
    ],
)
def test_wrong_usage_is_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in refusal(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for in vain")
def test_a_device_that_is_not_there_is_refused(clips, capsys, tmp_path):
    assert main([str(clips), "--out", str(tmp_path / "run"), "--accelerator", "cuda", "--windows-per-clip", "3"]) == 2
    assert "1 x cuda is not available" in refusal(capsys)


def test_what_cannot_be_trained_on_is_refused_in_one_line(clips, tmp_path, capsys):
    box, broken = tmp_path / "box", tmp_path / "broken"
    shutil.copytree(clips, box)
    for path in box.iterdir():
        header = Clip.open(path).header
        change_clip(path, replace(header, crop=CropGeometry("box", 96)).metadata())
    shutil.copytree(clips, broken)
    for path in broken.iterdir():
        data = bytearray(path.read_bytes())
        place = data.find(bytes((0xFF, 0xD8)))  # the first picture's, and so on through the clip
        data[place : place + len(data) // 2] = bytes(len(data) // 2)
        path.write_bytes(data)
    for folder, workers, said in ((box, "0", "'points'"), (broken, "0", "damaged"), (broken, "1", "damaged")):
        out = ["--out", str(tmp_path / "run"), "--steps", "1", "--workers", workers, "--accelerator", "cpu"]
        assert main([str(folder), *out]) == 2
        message = refusal(capsys)
        assert said in message
        assert folder.name in message


def test_a_run_that_cannot_go_on_says_so(clips, tmp_path, capsys, monkeypatch):
    words = [str(clips), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
    words += ["--windows-per-clip", "3", "--clips-per-step", "1", "--region.size", "32", "--dimension", "16"]
    for error, code in ((FloatingPointError("the loss is nan"), 1), (KeyboardInterrupt(), 130), (OSError("full"), 1)):

        def fail(state, batch, error=error):
            raise error

        monkeypatch.setattr(syncnet.train, "train_step", fail)
        assert main(words) == code
        assert (str(error) or "interrupted") in refusal(capsys)


def test_two_processes_train_what_one_does(clips, tmp_path):
    """The command line with two processes: they share each step, and their mean gradient is the batch's."""
    recipe = replace(BCE, steps=2, optimizer="adam", schedule="constant", clips_per_step=4)
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(recipe)))
    command = [sys.executable, "-m", "syncnet.train", clips, "--val", clips, "--config", tmp_path / "recipe.json"]
    engine = ["--accelerator", "cpu", "--precision", "32-true", "--devices", "2"]
    done = subprocess.run(
        [*map(str, command), *engine, "--out", str(tmp_path / "two")], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "step 2" in done.stdout
    assert {"accuracy", "threshold"} <= json.loads((tmp_path / "two/log.jsonl").read_text().splitlines()[-1]).keys()
    train(clips, recipe, SyncNetTrainOptions(tmp_path / "one"), CPU)
    one, two = (Checkpoint.load(tmp_path / name / "syncnet.safetensors").weights for name in ("one", "two"))
    untrained = syncnet.train.create_state(recipe, CPU.launch()).network.state_dict()
    moved, together = (torch.cat([(w[key] - untrained[key]).flatten() for key in one]) for w in (one, two))
    assert moved.abs().max() > 1e-3  # two steps of Adam at a rate of 0.001
    assert F.cosine_similarity(moved, together, dim=0) > 0.999
    assert (moved - together).abs().median() < 1e-6


def test_a_new_run_starts_from_another_experts_weights(clips, tmp_path, capsys):
    train(clips, replace(SMALL, steps=1), SyncNetTrainOptions(tmp_path / "first", clips), CPU)
    path = tmp_path / "first" / "syncnet.safetensors"
    state = syncnet.train.create_state(SMALL, CPU.launch(), path)
    assert not changed(SyncExpert.load(path).network.state_dict(), state.network.state_dict())
    other = replace(SMALL, region=replace(MOUTH, top=0.25))
    with pytest.raises(ValueError, match="does not match the recipe's network"):
        syncnet.train.create_state(other, CPU.launch(), path)
    assert main([str(clips), "--out", str(tmp_path / "new"), "--init", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors does not exist" in capsys.readouterr().err
