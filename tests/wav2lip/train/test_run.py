"""Runs of the generator's trainer: resuming after a kill, several processes, what is kept, what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import wav2lip.train
from preprocessing.dataset.clips import Clip
from preprocessing.dataset.manifest import ClipRow, write_rows
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig
from tests.conftest import REPOSITORY
from tests.material import change_clip
from tests.processes import Command, two_ranks
from tests.wav2lip.train.material import CPU, CRITIC, SMALL, TINY, changed
from training.checkpoint import Checkpoint
from wav2lip.generator.checkpoints import load_generator
from wav2lip.generator.data import GeneratorBatch, Sampling
from wav2lip.generator.losses import LossWeights
from wav2lip.generator.recipe import GeneratorRecipe
from wav2lip.generator.train_state import GeneratorTrainState, create_state
from wav2lip.train import GeneratorTrainOptions, main, train

pytestmark = pytest.mark.usefixtures("one_thread")

# All parts of training: the sync loss from the second step, a critic from the third.
WHOLE = replace(
    SMALL, adversary=replace(CRITIC, start=2),
    weights=LossWeights(adversarial=0.01, feature_matching=0.1, temporal=0.1),
    sync_start=0, sync_ramp=3, sampling=Sampling(silent=0.5), accumulate=2,
)  # fmt: skip


def flags_of(out: Path, expert: Path, val: Path | None = None, **others: int) -> GeneratorTrainOptions:
    every = {"log_every": 1, "grid_every": 2, "validate_every": 2, "save_every": 1}
    return GeneratorTrainOptions(out, expert, expert, val, **every | others)  # type: ignore[arg-type]


def run(recipe: GeneratorRecipe, clips: Path, expert: Path, out: Path, val: Path | None = None, **others: int) -> None:
    train(clips, recipe, flags_of(out, expert, val, **others), CPU)


def same_state(one: Path, other: Path) -> bool:
    """Whether two runs' states are bit-identical."""

    def alike(a: object, b: object) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
        return a == b

    return alike(*(torch.load(run / "state.pt", weights_only=True) for run in (one, other)))


def test_a_killed_run_ends_as_one_that_was_not(clips, expert, tmp_path):
    """Killed by SIGKILL during a step or while writing its results."""
    recipe = replace(WHOLE, steps=6)
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(recipe)))
    words = [clips, "--val", clips, "--config", tmp_path / "recipe.json", "--expert", expert, "--judge", expert]
    words += ["--out", tmp_path / "killed", "--log-every", 1, "--grid-every", 2, "--validate-every", 2]
    words += ["--save-every", 1, "--accelerator", "cpu", "--precision", "32-true"]
    log = tmp_path / "killed" / "log.jsonl"
    process = Command("wav2lip.train", words, REPOSITORY, tmp_path / "output")
    until = time.monotonic() + 300
    while not (log.is_file() and '"step": 3,' in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    reached = torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"]
    assert 2 <= reached < 6
    torch.manual_seed(99)
    run(recipe, clips, expert, tmp_path / "killed", clips)
    run(recipe, clips, expert, tmp_path / "whole", clips)
    assert same_state(tmp_path / "whole", tmp_path / "killed")
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    ours, theirs = ([json.loads(line) | {"seconds": 0} for line in lines] for lines in logs)
    assert ours == theirs
    assert [line["step"] for line in ours] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert {"critic", "r1", "sync", "gradient_norm/feature_matching", "lr"} <= set().union(*ours)
    for name in ("generator.safetensors", "best.safetensors"):
        kept = [Checkpoint.load(tmp_path / run / name, "generator") for run in ("whole", "killed")]
        assert kept[0].step == kept[1].step
        assert not changed(kept[0].weights, kept[1].weights)
    before = (tmp_path / "whole" / "log.jsonl").read_text()
    run(recipe, clips, expert, tmp_path / "whole", clips)  # there is nothing left to do
    assert (tmp_path / "whole" / "log.jsonl").read_text() == before
    with pytest.raises(ValueError, match=r"has lr 0\.001, not 0\.01: resume with its config\.json"):
        run(replace(recipe, lr=0.01), clips, expert, tmp_path / "whole", clips)


def test_workers_train_the_same_network_and_another_seed_another(clips, expert, tmp_path):
    for name, workers, seed in (("0", 0, 3), ("2", 2, 3), ("other", 0, 4)):
        run(replace(SMALL, steps=1, seed=seed), clips, expert, tmp_path / name, workers=workers)
    assert same_state(tmp_path / "0", tmp_path / "2")
    assert not same_state(tmp_path / "0", tmp_path / "other")


def train_as_told(words: list[str]) -> None:
    assert main(words) == 0


def test_two_processes_train_what_one_does(clips, expert, tmp_path):
    """The command with two processes: they share each step, as one process does that takes it in two parts."""
    recipe = replace(SMALL, steps=2, optimizer="adam", weight_decay=0, sync_start=0, sync_ramp=0, schedule="constant")
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(recipe)))
    words = [clips, "--val", clips, "--config", tmp_path / "recipe.json", "--expert", expert, "--judge", expert]
    words += ["--log-every", 1, "--out", tmp_path / "two", "--accelerator", "cpu", "--precision", "32-true"]
    two_ranks(train_as_told, [*map(str, words), "--devices", "2"])
    run(replace(recipe, accumulate=2), clips, expert, tmp_path / "one", clips)
    fresh = dict(create_state(recipe, CPU.launch(), expert).generator.named_parameters())
    one, two = (torch.load(tmp_path / name / "state.pt", weights_only=True)["generator"] for name in ("one", "two"))
    moved, together = (torch.cat([(w[key] - fresh[key].detach()).flatten() for key in fresh]) for w in (one, two))
    assert moved.abs().max() > 1e-3
    assert F.cosine_similarity(moved, together, dim=0) > 0.99
    assert (moved - together).abs().median() < 1e-6
    assert {path.name for path in (tmp_path / "two").iterdir()} >= {"grid.png", "best.safetensors", "log.jsonl"}


def poison(monkeypatch, name: str) -> None:
    """A value is not finite from the third step on."""
    real = wav2lip.train._backward

    def backward(state: GeneratorTrainState, batch: GeneratorBatch, *rest: object) -> tuple[dict[str, Tensor], Tensor]:
        if state.step == 2 and name == "loss":
            batch.target[0, 0, 80, 30] = torch.nan
        found = real(state, batch, *rest)  # type: ignore[arg-type]
        if state.step == 2 and name == "gradient":
            next(p for p in state.generator.parameters() if p.grad is not None).grad[0] = torch.inf
        return found

    monkeypatch.setattr(wav2lip.train, "_backward", backward)


@pytest.mark.parametrize(("name", "said"), [("loss", "l1 is nan"), ("gradient", "gradient_norm is inf")])
def test_what_is_no_number_stops_the_run_and_is_kept(clips, expert, tmp_path, monkeypatch, capsys, name, said):
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(SMALL)))
    poison(monkeypatch, name)
    words = [str(clips), "--out", str(tmp_path / "run"), "--expert", str(expert), "--judge", str(expert)]
    words += ["--config", str(tmp_path / "recipe.json"), "--accelerator", "cpu", "--precision", "32-true"]
    assert main([*words, "--save_every", "1"]) == 1
    message = refusal(capsys)
    assert said in message
    assert "at step 2; try a lower learning rate" in message
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert saved["step"] == 2
    assert all(torch.isfinite(weight).all() for weight in saved["generator"].values())
    dump = torch.load(tmp_path / "run" / "dump.pt", weights_only=True)
    assert dump["step"] == 2
    assert {"l1", "gradient_norm"} <= dump["losses"].keys()
    assert dump["batches"][0]["faces"].shape == (10, 6, 96, 96)
    assert not (tmp_path / "run" / "generator.safetensors").exists()


def test_a_weight_that_is_no_number_is_never_saved(clips, expert):
    state = create_state(SMALL, CPU.launch(), expert)
    next(iter(state.average.state_dict().values()))[0] = torch.nan
    with pytest.raises(FloatingPointError, match="is not finite after step 0"):
        wav2lip.train.state_dict(state)


def test_the_best_is_the_least_difference_until_the_judge_has_a_say(clips, expert, tmp_path):
    state = create_state(replace(SMALL, sync_start=3, sync_ramp=1), CPU.launch(), expert)
    folder = wav2lip.train.RunFolder(tmp_path)
    kept = []
    for step, l1, judged in ((1, 0.2, 0.5), (2, 0.3, 0.6), (3, 0.1, 0.4), (4, 0.5, 0.1), (5, 0.4, 0.05), (6, 0.9, 0.2)):
        state.step = step
        exam = type("Exam", (), {"measure": lambda self, model, l1=l1, judged=judged: {"l1": l1, "judge_own": judged}})
        wav2lip.train.validate_and_save(state, folder, exam())
        kept.append(Checkpoint.load(tmp_path / "best.safetensors").step)
    assert kept == [1, 1, 3, 4, 4, 6]
    assert Checkpoint.load(tmp_path / "generator.safetensors").step == 6


def test_a_folders_own_split_is_held_out(clips, expert, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    rows = [
        ClipRow(f"{n}.safetensors", "v.mp4", 0, n, 0.0, 1.6, 40, f"speaker{n}", split, size=96)
        for n, split in enumerate(("val", "train"))
    ]
    write_rows(folder / "manifest.csv", rows)
    drawn: set[str] = set()
    held: list[str] = []

    class Watched(wav2lip.train.ShardedDataset):  # type: ignore[type-arg]
        def __init__(self, clips, *rest):
            drawn.update(clip.path.stem for clip in clips)
            super().__init__(clips, *rest)

    class Exam(wav2lip.train.HeldOutEvaluation):
        def __init__(self, clips, *rest):
            held.extend(clip.path.stem for clip in clips)
            super().__init__(clips, *rest)

    monkeypatch.setattr(wav2lip.train, "ShardedDataset", Watched)
    monkeypatch.setattr(wav2lip.train, "HeldOutEvaluation", Exam)
    run(replace(SMALL, steps=1), folder, expert, tmp_path / "run")
    assert (drawn, held) == ({"1"}, ["0"])


def test_a_new_run_starts_from_another_generators_weights(clips, expert, tmp_path, capsys):
    run(replace(SMALL, steps=2), clips, expert, tmp_path / "first")
    path = tmp_path / "first" / "generator.safetensors"
    generator, audio, geometry = load_generator(path)
    assert (audio, geometry) == (AudioConfig(), CropGeometry("points", 96))
    assert generator.config == TINY
    state = create_state(replace(SMALL, seed=8), CPU.launch(), expert, path)
    for ours in (state.generator, state.average):
        assert not changed(generator.state_dict(), ours.state_dict())
    with pytest.raises(ValueError, match="does not match the recipe's generator"):
        create_state(replace(SMALL, generator=replace(TINY, width=8)), CPU.launch(), expert, path)
    words = [str(clips), "--out", str(tmp_path / "new"), "--accelerator", "cpu", "--init", str(tmp_path / "none.pth")]
    assert main(words) == 2
    assert "none.pth cannot be opened" in refusal(capsys)


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error; progress may stand before it."""
    (message,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("step ")]
    assert message.startswith("wav2lip.train: error: ")
    return message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "arguments are required: out, clips"),
        (["clips"], "out"),
        (["clips", "--out", "run", "--sync", "never"], "'log', 'bce', 'relative'"),
        (["clips", "--out", "run", "--wate", "1"], "--wate"),
        (["clips", "--out", "run", "--generator.size", "100"], "96 times a power of two, not 100"),
        (["clips", "--out", "run", "--grid-every", "0"], "grid_every must be 1 or more"),
        (
            ["clips", "--out", "run", "--devices", "3"],
            "4 cannot be divided into 1 parts on 3 devices",
        ),
        (["clips", "--out", "run", "--expert", "none.safetensors"], "clips"),
    ],
)
def test_wrong_usage_is_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in refusal(capsys)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_trained_on_is_refused_in_one_line(clips, expert, tmp_path, capsys):
    box, broken, foreign = tmp_path / "box", tmp_path / "broken", tmp_path / "foreign.safetensors"
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
    theirs = Checkpoint.load(expert)
    replace(theirs, audio=theirs.audio | {"hop_length": 160}).save(foreign)
    extra = ["--out", str(tmp_path / "run"), "--accelerator", "cpu", "--steps", "1"]
    jobs = [(box, expert, 0, "'points'"), (broken, expert, 0, "damaged"), (broken, expert, 1, "damaged")]
    for folder, file, workers, said in [*jobs, (clips, foreign, 0, "hop_length = 160, expected 200")]:
        assert main([str(folder), "--expert", str(file), "--workers", str(workers), *extra]) == 2
        assert said in refusal(capsys)
