"""The generator's trainer on a real face and real speech: what it is shown, one step, going on after a stop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import wav2lip.train
from preprocessing.audio import AudioConfig
from preprocessing.augmentation import Augmentation
from preprocessing.clips import Clip, open_clips
from preprocessing.crops import CropGeometry
from preprocessing.manifest import Row, write_rows
from syncnet.expert import Expert
from syncnet.model import SmallSyncNet
from tests.material import change_clip, write_talking_clips
from training.checkpoint import Checkpoint
from training.run import Run, due
from wav2lip.checkpoints import load_generator
from wav2lip.data import Window, sample

ROOT = Path(__file__).parents[1]
FRAMES = 40
TINY = replace(wav2lip.train.CONFIG, width=4)


@pytest.fixture(autouse=True)
def _steady():
    """One thread: sums in another order would round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Two clips of the astronaut, whose mouth opens with the loudness of the demo's speech."""
    return write_talking_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def expert(tmp_path_factory) -> Path:
    """An untrained expert's file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "syncnet.safetensors"
    Expert(SmallSyncNet()).save(path)
    return path


@pytest.fixture
def small(monkeypatch) -> None:
    """Sizes at which a step takes a fraction of a second."""
    monkeypatch.setattr(wav2lip.train, "WINDOWS_A_STEP", 1)
    monkeypatch.setattr(wav2lip.train, "start", partial(wav2lip.train.start, config=TINY))
    monkeypatch.setattr(wav2lip.train, "SYNC_FROM", 0)  # the expert takes part from the first step on
    monkeypatch.setattr(wav2lip.train, "SYNC_FULL", 2)


def snapshot(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weight.clone() for key, weight in weights.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key, weight in before.items() if not torch.equal(weight, after[key])}


def draw(clips: Path) -> Window:
    return sample(open_clips(clips, 10)[0], np.random.default_rng(0), TINY.size, TINY.mask_row)


def test_one_step_trains_the_generator_and_nothing_else(clips, expert, small):
    state = wav2lip.train.start(expert, 0, 1e-3)
    batch = wav2lip.train.collate([draw(clips)], TINY.mask_row)
    assert batch.faces.shape == (5, 6, 96, 96)
    assert batch.window_mel.shape == (1, 1, 80, 16)
    parts = {"generator": state.generator, "average": state.average, "expert": state.expert.network}
    before = {name: snapshot(part.state_dict()) for name, part in parts.items()}
    state.step = 101  # the rate has warmed up
    losses = wav2lip.train.train_step(state, batch, 1000, 1e-3)
    assert losses.keys() == wav2lip.train.WEIGHTS.keys()
    assert all(torch.isfinite(loss) and not loss.requires_grad for loss in losses.values())
    assert losses["sync"] > 0
    moved = changed(before["generator"], state.generator.state_dict())
    tower = {key for key in before["generator"] if key.startswith("audio_encoder.tower.")}
    assert tower
    assert not moved & tower
    assert {key.partition(".")[0] for key in moved} == {key.partition(".")[0] for key in before["generator"]}
    assert not changed(before["expert"], state.expert.network.state_dict())
    assert not state.expert.network.training
    theirs = {key.removeprefix("audio_encoder."): weight for key, weight in before["expert"].items()}
    assert all(torch.equal(before["generator"][key], theirs[key.removeprefix("audio_encoder.tower.")]) for key in tower)
    key, decay = "output_block.0.conv_block.0.weight", 102 / 111
    expected = decay * before["average"][key] + (1 - decay) * state.generator.state_dict()[key]
    assert torch.allclose(state.average.state_dict()[key], expected, atol=1e-6)


def test_the_generator_learns(clips, expert, small):
    state = wav2lip.train.start(expert, 0, 1e-3)
    batch = wav2lip.train.collate([draw(clips)], TINY.mask_row)
    batch.target *= 0.5  # no copy of the reference will do
    state.step = 100
    losses = [wav2lip.train.train_step(state, batch, 10_000, 3e-3)["l1"] for _ in range(7)]
    assert losses[-1] < 0.97 * losses[0]


def test_a_loss_that_is_no_number_stops_the_training(clips, expert, small):
    state = wav2lip.train.start(expert, 0, 1e-3)
    batch = wav2lip.train.collate([draw(clips)], TINY.mask_row)
    batch.target[0, 0, 90, 50] = torch.nan
    before = snapshot(state.generator.state_dict())
    with pytest.raises(FloatingPointError, match="nan at step 0"):
        wav2lip.train.train_step(state, batch, 10, 1e-3)
    trained = dict(state.generator.named_parameters())
    assert not {key for key in changed(before, state.generator.state_dict()) if key in trained}


def test_a_foreign_experts_front_end_is_refused(expert, tmp_path):
    theirs = Checkpoint.load(expert)
    replace(theirs, audio=theirs.audio | {"hop_length": 160}).save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="hop_length = 160, here it is 200"):
        wav2lip.train.start(tmp_path / "other.safetensors", 0, 1e-3)


def test_validation_measures_the_averaged_generator(clips, expert, small, tmp_path):
    state = wav2lip.train.start(expert, 0, 1e-3)
    before = snapshot(state.average.state_dict())
    held_out = open_clips(clips, 10)
    measured = wav2lip.train.validate(state, held_out, tmp_path / "sheet.png")
    assert measured == wav2lip.train.validate(state, held_out)
    copies = []
    for index, clip in enumerate(held_out):
        window = sample(clip, np.random.default_rng((7, index)), augmentation=Augmentation.none())
        difference = np.abs(window.target[:, 40:].astype(float) - window.reference[:, 40:])
        copies.append(difference.mean() / 255)
    assert measured["copy"] == pytest.approx(np.mean(copies), abs=1e-6)
    assert 0 < measured["l1"] < 0.1
    assert measured["l1"] == measured["swapped"]  # an untrained generator hears nothing,
    assert measured["own_sound_better"] == 0  # and a tie is no success
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 2 * 96, 6 * 96, 3)
    assert not changed(before, state.average.state_dict())


def train_generator(clips: Path, expert: Path, out: Path, steps: int, workers: int = 0) -> None:
    wav2lip.train.train(clips, None, expert, out, steps, 1e-3, seed=3, check_every=2, workers=workers)


def test_workers_train_the_same_network(clips, expert, small, tmp_path):
    for workers in (0, 2):
        train_generator(clips, expert, tmp_path / str(workers), 2, workers)
    alone, helped = (torch.load(tmp_path / n / "state.pt", weights_only=True) for n in ("0", "2"))
    assert alone["step"] == helped["step"] == 2
    assert not changed(alone["generator"], helped["generator"])


def test_a_folders_own_split_is_held_out(clips, expert, small, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    rows = [
        Row(f"{n}.safetensors", "v.mp4", 0, n, 0.0, 1.6, FRAMES, f"speaker{n}", split, size=96)
        for n, split in enumerate(("val", "train"))
    ]
    write_rows(folder / "manifest.csv", rows)
    seen: dict[str, set[str]] = {"train": set(), "val": set()}
    drawn, judged = wav2lip.train.sample, wav2lip.train.validate

    def sample_(clip, *arguments, **options):
        seen["train"].add(clip.path.stem)
        return drawn(clip, *arguments, **options)

    def validate_(state, held_out, *arguments):
        seen["val"].update(clip.path.stem for clip in held_out)
        monkeypatch.setattr(wav2lip.train, "sample", drawn)
        return judged(state, held_out, *arguments)

    monkeypatch.setattr(wav2lip.train, "sample", sample_)
    monkeypatch.setattr(wav2lip.train, "validate", validate_)
    train_generator(folder, expert, tmp_path / "run", 1)
    assert seen == {"train": {"1"}, "val": {"0"}}


def test_what_cannot_be_trained_on_is_refused_in_one_line(clips, expert, tmp_path, capsys):
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
    extra = ["--expert", str(expert), "--steps", "1"]
    for folder, workers, said in ((box, "0", "'points'"), (broken, "0", "damaged"), (broken, "1", "damaged")):
        with pytest.raises(SystemExit) as stop:
            wav2lip.train.main([str(folder), "--out", str(tmp_path / "run"), "--workers", workers, *extra])
        assert stop.value.code == 2
        message = capsys.readouterr().err.partition("error: ")[2]
        assert message.count("\n") == 1
        assert said in message
        assert folder.name in message


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(clips, expert, small, tmp_path, monkeypatch):
    monkeypatch.setattr(wav2lip.train, "due", lambda step, every: step == 2)  # saves after two steps of four
    train_generator(clips, expert, tmp_path / "whole", 4)
    real, calls = wav2lip.train.train_step, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 4:  # after the third step, which is lost
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(wav2lip.train, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_generator(clips, expert, tmp_path / "stopped", 4)
    torch.manual_seed(99)  # another process starts with other random numbers
    calls.extend([1] * 10)
    train_generator(clips, expert, tmp_path / "stopped", 4)
    assert len(calls) == 4 + 10 + 2

    whole, stopped_ = (torch.load(tmp_path / name / "state.pt", weights_only=False) for name in ("whole", "stopped"))
    assert whole["step"] == stopped_["step"] == 4
    for part in ("generator", "average"):
        assert not changed(whole[part], stopped_[part])
    slots = (state["optimizer"]["state"] for state in (whole, stopped_))
    for ours, theirs in zip(*(slot.values() for slot in slots), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for path in (tmp_path / "whole").glob("*.safetensors"):
        kept, again = Checkpoint.load(path), Checkpoint.load(tmp_path / "stopped" / path.name)
        assert kept.step == again.step == 4
        assert not changed(kept.weights, again.weights)


def test_a_run_keeps_its_last_whole_state(tmp_path, monkeypatch, capsys):
    run = Run(tmp_path / "run" / "deep")
    assert run.load_state() is None
    run.save_state({"step": 1, "weights": torch.ones(2)})

    def fail(state, path):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        run.save_state({"step": 2})
    state = Run(tmp_path / "run" / "deep").load_state()
    assert state is not None
    assert state["step"] == 1
    assert state["weights"].tolist() == [1, 1]
    run.log(25, l1=0.123456789)
    run.log(50, l1=0.1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "deep" / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["l1"]) for line in lines] == [(25, 0.12346), (50, 0.1)]
    assert "step 50" in capsys.readouterr().out


def test_a_run_that_goes_on_forgets_what_came_after_its_state(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.log(step, loss=step / 10)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "sec')  # the process was killed here
    Run(tmp_path).rewind(2)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]
    Run(tmp_path / "new").rewind(2)
    assert not list((tmp_path / "new").iterdir())


def test_tensorboard_shows_the_log(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.full((4, 6, 3), (10, 20, 30), np.uint8))
    run = Run(tmp_path / "run", board=True)
    for step in (1, 2, 3):
        run.log(step, loss=step / 10)
    again = Run(tmp_path / "run", board=True)
    again.rewind(2)
    again.log(3, loss=0.7)
    seen = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [
        (1, pytest.approx(0.1)), (2, pytest.approx(0.2)), (3, pytest.approx(0.7)),
    ]  # fmt: skip
    again.show(3, "curve", picture)
    (image,) = EventAccumulator(str(tmp_path / "run")).Reload().Images("curve")[-1:]
    pixels = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert (pixels == (10, 20, 30)).all()


def test_only_one_of_several_processes_writes(tmp_path, capsys):
    run = Run(tmp_path / "run", board=True, writes=False)
    run.log(1, loss=0.5)
    run.save_state({"step": 1})
    run.rewind(1)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_due_by_hand():
    assert [step for step in range(11) if due(step, 5)] == [5, 10]


def test_the_command_trains_a_generator_that_opens(clips, expert, tmp_path):
    command = [sys.executable, "-m", "wav2lip.train", clips, "--expert", expert, "--val", clips, "--out", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*map(str, command), "--steps", "2"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert "step 2" in result.stdout
    log = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"step", "seconds", "l1", "swapped", "copy", "own_sound_better"} == log.keys()
    assert (tmp_path / "held_out.png").is_file()
    assert (tmp_path / "state.pt").is_file()
    generator, audio, geometry = load_generator(tmp_path / "generator.safetensors")
    assert generator.config == replace(wav2lip.train.CONFIG, hearing_norm="layer")  # the expert's
    assert (audio, geometry) == (AudioConfig(), CropGeometry("points", 96))
    assert Checkpoint.load(tmp_path / "generator.safetensors").step == 2
