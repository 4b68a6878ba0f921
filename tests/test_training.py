"""Both trainers on a real face and real speech: what they are shown, one step of each, and going on after a stop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

import syncnet.train
import wav2lip.train
from preprocessing.audio import AudioConfig, load_audio, mel_spectrogram, speech_columns
from preprocessing.augmentation import Augmentation
from preprocessing.clips import Clip, open_clips
from preprocessing.crops import CropGeometry, crop
from preprocessing.manifest import Row, write_rows
from syncnet.model import SmallSyncNet
from tests.material import change_clip, write_numbered_clip
from training.checkpoint import Checkpoint
from training.run import Run, due
from wav2lip.checkpoints import load_generator
from wav2lip.data import Window, sample

ROOT = Path(__file__).parents[1]
POINTS = np.array([[206, 108], [246, 108], [228, 130], [210, 148], [244, 148]], np.float64)  # of the astronaut's face
FRAMES, MARGIN = 40, 8
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
    """Two clips of the astronaut, whose mouth darkens with the loudness of the demo's speech."""
    folder = tmp_path_factory.mktemp("clips")
    frame = np.ascontiguousarray(astronaut()[..., ::-1])
    matrix = CropGeometry("points", 96).matrix(np.zeros(4), POINTS, (512, 512))
    matrix[:, 2] += MARGIN
    face = crop(frame, matrix, 96 + 2 * MARGIN)
    samples = load_audio(ROOT / "assets" / "speech.wav")[6400:]
    mel, speech = mel_spectrogram(samples), speech_columns(samples)
    for number in range(2):
        columns, part = slice(128 * number, 128 * number + 129), slice(25600 * number, 25600 * (number + 1))
        faces = np.repeat(face[None], FRAMES, axis=0)
        for index, open_ in enumerate(mel[:40, columns].mean(axis=0)[: FRAMES * 3 : 3]):
            cv2.ellipse(faces[index], (56, 66), (10, int(4 + open_)), 0, 0, 360, (30, 20, 60), -1)
        write_numbered_clip(
            folder / f"{number}.safetensors", faces, samples[part], flags=speech[columns], speaker=f"speaker{number}",
            margin=MARGIN,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def expert(tmp_path_factory) -> Path:
    """An untrained expert's file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "syncnet.safetensors"
    config = {"dimension": 256, "mouth_size": 64}
    weights = SmallSyncNet(**config).state_dict()
    Checkpoint("small-syncnet", config, asdict(AudioConfig()), {"kind": "points"}, weights, 0).save(path)
    return path


@pytest.fixture
def small(monkeypatch) -> None:
    """Sizes at which a step takes a fraction of a second."""
    monkeypatch.setattr(syncnet.train, "CLIPS_A_STEP", 2)
    monkeypatch.setattr(syncnet.train, "WINDOWS_A_CLIP", 3)
    monkeypatch.setattr(syncnet.train, "SPAN", 9)
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


def test_one_step_trains_the_expert(clips, small):
    torch.manual_seed(0)
    model = SmallSyncNet(dimension=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    drawn = [syncnet.train.sample(clip, np.random.default_rng(0), 3) for clip in open_clips(clips, 9)]
    mels, mouths = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    before = snapshot(model.state_dict())
    first = syncnet.train.train_step(model, optimizer, mels, mouths)
    assert changed(before, model.state_dict()) == set(before)
    assert torch.isfinite(first["matching"])
    assert first["scale"].item() == pytest.approx(10, rel=0.01)
    for _ in range(4):
        last = syncnet.train.train_step(model, optimizer, mels, mouths)
    assert last["matching"] < first["matching"]


def test_one_step_trains_the_generator_and_nothing_else(clips, expert, small):
    state = wav2lip.train.start(expert, 0, 1e-3)
    batch = wav2lip.train.collate([draw(clips)], TINY.mask_row)
    assert batch.faces.shape == (5, 6, 96, 96)
    assert batch.window_mel.shape == (1, 1, 80, 16)
    before = {name: snapshot(getattr(state, name).state_dict()) for name in ("generator", "average", "expert")}
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
    assert not changed(before["expert"], state.expert.state_dict())
    assert not state.expert.training
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


def test_validation_of_an_expert_that_knows(clips, small, monkeypatch):
    class Knows(SmallSyncNet):
        """Recognises each of a clip's windows, picture and sound, by its number."""

        def forward(self, mel, faces):
            return torch.eye(len(mel)), torch.eye(len(mel))

    model = Knows(dimension=32)
    assert syncnet.train.validate(model, open_clips(clips, 9)) == {"pairwise": 1.0, "offset_within_1": 1.0}
    assert model.training
    monkeypatch.setattr(
        Knows, "forward", lambda self, mel, faces: (torch.eye(len(mel)), torch.eye(len(mel)).roll(4, 0))
    )
    measured = syncnet.train.validate(model, open_clips(clips, 9))
    assert measured["offset_within_1"] == 0
    assert measured["pairwise"] < 0.9


def train_expert(clips: Path, out: Path, steps: int, workers: int = 0) -> None:
    syncnet.train.train(clips, None, out, steps, 1e-3, seed=3, workers=workers)


def train_generator(clips: Path, expert: Path, out: Path, steps: int, workers: int = 0) -> None:
    wav2lip.train.train(clips, None, expert, out, steps, 1e-3, seed=3, check_every=2, workers=workers)


def test_workers_train_the_same_networks(clips, expert, small, tmp_path):
    for workers in (0, 2):
        train_expert(clips, tmp_path / f"expert{workers}", 2, workers)
        train_generator(clips, expert, tmp_path / f"generator{workers}", 2, workers)
    for kind in ("expert", "generator"):
        alone, helped = (torch.load(tmp_path / f"{kind}{n}" / "state.pt", weights_only=True) for n in (0, 2))
        part = "model" if kind == "expert" else "generator"
        assert alone["step"] == helped["step"] == 2
        assert not changed(alone[part], helped[part])


@pytest.mark.parametrize("module", [syncnet.train, wav2lip.train], ids=["expert", "generator"])
def test_a_folders_own_split_is_held_out(module, clips, expert, small, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    rows = [
        Row(f"{n}.safetensors", "v.mp4", 0, n, 0.0, 1.6, FRAMES, f"speaker{n}", split, size=96)
        for n, split in enumerate(("val", "train"))
    ]
    write_rows(folder / "manifest.csv", rows)
    seen: dict[str, set[str]] = {"train": set(), "val": set()}
    drawn, judged = module.sample, module.validate

    def sample_(clip, *arguments, **options):
        seen["train"].add(clip.path.stem)
        return drawn(clip, *arguments, **options)

    def validate_(state, held_out, *arguments):
        seen["val"].update(clip.path.stem for clip in held_out)
        monkeypatch.setattr(module, "sample", drawn)
        return judged(state, held_out, *arguments)

    monkeypatch.setattr(module, "sample", sample_)
    monkeypatch.setattr(module, "validate", validate_)
    if module is syncnet.train:
        train_expert(folder, tmp_path / "run", 1)
    else:
        train_generator(folder, expert, tmp_path / "run", 1)
    assert seen == {"train": {"1"}, "val": {"0"}}


@pytest.mark.parametrize("module", [syncnet.train, wav2lip.train], ids=["expert", "generator"])
def test_what_cannot_be_trained_on_is_refused_in_one_line(module, clips, expert, tmp_path, capsys):
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
    extra = ["--expert", str(expert)] if module is wav2lip.train else []
    for folder, workers, said in ((box, "0", "'points'"), (broken, "0", "damaged"), (broken, "1", "damaged")):
        with pytest.raises(SystemExit) as stop:
            module.main([str(folder), "--out", str(tmp_path / "run"), "--steps", "1", "--workers", workers, *extra])
        assert stop.value.code == 2
        message = capsys.readouterr().err.partition("error: ")[2]
        assert message.count("\n") == 1
        assert said in message
        assert folder.name in message


@pytest.mark.parametrize("module", [syncnet.train, wav2lip.train], ids=["expert", "generator"])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(module, clips, expert, small, tmp_path, monkeypatch):
    train = train_expert if module is syncnet.train else lambda *a: train_generator(a[0], expert, *a[1:])
    monkeypatch.setattr(module, "due", lambda step, every: step == 2)  # saves after two steps of four
    train(clips, tmp_path / "whole", 4)
    real, calls = module.train_step, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 4:  # after the third step, which is lost
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(clips, tmp_path / "stopped", 4)
    torch.manual_seed(99)  # another process starts with other random numbers
    calls.extend([1] * 10)
    train(clips, tmp_path / "stopped", 4)
    assert len(calls) == 4 + 10 + 2

    whole, stopped_ = (torch.load(tmp_path / name / "state.pt", weights_only=False) for name in ("whole", "stopped"))
    assert whole["step"] == stopped_["step"] == 4
    for part in ("model", "generator", "average"):
        if part in whole:
            assert not changed(whole[part], stopped_[part])
    slots = (state["optimizer"]["state"] for state in (whole, stopped_))
    for ours, theirs in zip(*(slot.values() for slot in slots), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for path in (tmp_path / "whole").glob("*.safetensors"):
        kept, again = Checkpoint.load(path), Checkpoint.load(tmp_path / "stopped" / path.name)
        assert kept.step == again.step == 4
        assert not changed(kept.weights, again.weights)


def test_another_seed_trains_another_expert(clips, small, tmp_path):
    for seed in (3, 4):
        syncnet.train.train(clips, None, tmp_path / str(seed), 1, 1e-3, seed)
    weights = [Checkpoint.load(tmp_path / name / "syncnet.safetensors", "small-syncnet").weights for name in "34"]
    assert changed(*weights) == set(weights[0])


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
    assert generator.config == wav2lip.train.CONFIG
    assert (audio, geometry) == (AudioConfig(), CropGeometry("points", 96))
    assert Checkpoint.load(tmp_path / "generator.safetensors").step == 2
