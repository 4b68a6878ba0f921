"""The generator's trainer on a real face and real speech: single steps, resuming after a kill, several processes."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import wav2lip.train
from preprocessing.dataset.augmentation import Augmentation
from preprocessing.dataset.clips import Clip, open_clips
from preprocessing.dataset.manifest import ClipRow, write_rows
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig
from syncnet.model import SmallSyncNet
from syncnet.sync_expert import SyncExpert
from tests.material import change_clip, write_talking_clips
from tests.processes import Command, two_ranks
from training.checkpoint import Checkpoint
from training.engine import Engine
from wav2lip.gan.adversary_recipe import AdversaryRecipe
from wav2lip.generator.checkpoints import load_generator
from wav2lip.generator.data import GeneratorBatch, Sampling, collate, sample
from wav2lip.generator.losses import LossWeights
from wav2lip.generator.model import GeneratorConfig
from wav2lip.generator.recipe import GeneratorRecipe
from wav2lip.generator.train_state import GeneratorTrainState, create_state
from wav2lip.train import GeneratorTrainOptions, main, train, train_step, weighted_losses

ROOT = Path(__file__).parents[2]
TINY = GeneratorConfig(width=2, mask_row=40)
SMALL = GeneratorRecipe(
    TINY, Sampling("random", silent=0.0), windows_per_step=2, steps=4, lr=1e-3, warmup_steps=0, seed=3
)
CRITIC = AdversaryRecipe("patch", width=4, depth=2, r1=1.0, r1_every=2)
# All parts of training: the sync loss from the second step, a critic from the third.
WHOLE = replace(
    SMALL, adversary=replace(CRITIC, start=2),
    weights=LossWeights(adversarial=0.01, feature_matching=0.1, temporal=0.1),
    sync_start=0, sync_ramp=3, sampling=Sampling(silent=0.5), accumulate=2,
)  # fmt: skip
CPU = Engine(accelerator="cpu", precision="32-true")


@pytest.fixture(autouse=True)
def _steady() -> Iterator[None]:
    """One thread, as a different summation order changes rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Two clips of the astronaut, whose mouth opens with the loudness of the demo's speech."""
    return write_talking_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def expert(tmp_path_factory) -> Path:
    """The checkpoint of an untrained expert."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "syncnet.safetensors"
    SyncExpert(SmallSyncNet()).save(path)
    return path


def snapshot(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weight.clone() for key, weight in weights.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key, weight in before.items() if not torch.equal(weight, after[key])}


def draw(clips: Path, count: int = 2) -> GeneratorBatch:
    clip = open_clips(clips, 10)[0]
    how = Sampling("random", 0.0, 0.0, 0.0, Augmentation.none())
    windows = [sample(clip, np.random.default_rng(n), TINY.size, TINY.mask_row, how) for n in range(count)]
    return collate(windows, TINY.mask_row)


def flags_of(out: Path, expert: Path, val: Path | None = None, **others: int) -> GeneratorTrainOptions:
    every = {"log_every": 1, "grid_every": 2, "validate_every": 2, "save_every": 1}
    return GeneratorTrainOptions(out, expert, expert, val, **every | others)  # type: ignore[arg-type]


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
    process = Command("wav2lip.train", words, ROOT, tmp_path / "output")
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
