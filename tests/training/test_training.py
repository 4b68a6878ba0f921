"""Run folders and logs, and exit codes of training commands."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from preprocessing.commands import run_command
from training import precision
from training.engine import Engine
from training.progress import training_steps
from training.run import RESUMES, RunFolder, due, save_atomic


def test_a_run_keeps_its_last_whole_state(tmp_path, monkeypatch, capsys):
    run = RunFolder(tmp_path / "run" / "deep")
    assert run.load_state() is None
    run.save_state({"step": 1, "weights": torch.ones(2)})

    def fail(state, path):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        run.save_state({"step": 2})
    state = RunFolder(tmp_path / "run" / "deep").load_state()
    assert state is not None
    assert state["step"] == 1
    assert state["weights"].tolist() == [1, 1]
    run.log(25, l1=0.123456789)
    run.log(50, l1=0.1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "deep" / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["l1"]) for line in lines] == [(25, 0.12346), (50, 0.1)]
    assert "step 50" in capsys.readouterr().out


def test_a_run_that_goes_on_forgets_what_came_after_its_state(tmp_path):
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.log(step, loss=step / 10)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "sec')  # the process was killed here
    RunFolder(tmp_path).truncate_log(2)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]
    RunFolder(tmp_path / "new").truncate_log(2)
    assert not (tmp_path / "new" / "log.jsonl").exists()


def test_tensorboard_shows_the_log(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    file = tmp_path / "image.png"
    cv2.imwrite(str(file), np.full((4, 6, 3), (10, 20, 30), np.uint8))
    run = RunFolder(tmp_path / "run", board=True)
    for step in (1, 2, 3):
        run.log(step, loss=step / 10)
    # TensorBoard reads its files in the order of their names, which begin with the second they were opened in.
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    again = RunFolder(tmp_path / "run", board=True)
    again.truncate_log(2)
    again.log(3, loss=0.7)
    seen = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [
        (1, pytest.approx(0.1)), (2, pytest.approx(0.2)), (3, pytest.approx(0.7)),
    ]  # fmt: skip
    again.add_image(3, "curve", file)
    (image,) = EventAccumulator(str(tmp_path / "run")).Reload().Images("curve")[-1:]
    pixels = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert (pixels == (10, 20, 30)).all()


def test_only_one_of_several_processes_writes(tmp_path, capsys):
    run = RunFolder(tmp_path / "run", board=True, writes=False)
    run.log(1, loss=0.5)
    run.save_state({"step": 1})
    run.truncate_log(1)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_due_by_hand():
    assert [step for step in range(11) if due(step, 5)] == [5, 10]


def test_a_run_goes_on_with_its_own_recipe_only(tmp_path):
    run = RunFolder(tmp_path)
    recipe = {"rate": 0.1, "steps": 5, "augmentation": {"zoom": (0.9, 1.1)}}
    run.write_config(recipe)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "rate": 0.1, "steps": 5, "augmentation": {"zoom": [0.9, 1.1]},
    }  # fmt: skip
    run.save_state({"step": 3, "recipe": recipe})
    for ours in (recipe, recipe | {"steps": 7}):
        state = run.load_state(ours)
        assert state is not None
        assert state["step"] == 3
    with pytest.raises(ValueError, match=r"has rate 0\.1, not 0\.2: resume with its config\.json"):
        run.load_state(recipe | {"rate": 0.2})
    with pytest.raises(ValueError, match=r"has augmentation .*0\.9.* not .*0\.8"):
        run.load_state(recipe | {"augmentation": {"zoom": (0.8, 1.1)}})
    with pytest.raises(ValueError, match=r"by another version \(differing options: warm\)"):
        run.load_state(recipe | {"warm": 1})
    assert not list(tmp_path.glob("*.part"))


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    save_atomic({"step": 1}, tmp_path / "dump.pt")

    def fail(content, path):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_atomic({"step": 2}, tmp_path / "dump.pt")
    assert torch.load(tmp_path / "dump.pt", weights_only=True) == {"step": 1}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (ValueError("Caught in a worker\nTraceback\nValueError: the clip is damaged"), 2, "the clip is damaged"),
        (ValueError(), 2, "invalid value"),
        (FloatingPointError("l1 is nan\nat step 3"), 1, "l1 is nan at step 3"),
        (FileNotFoundError(2, "No such file", "x"), 1, "[Errno 2] No such file: 'x'"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume from the last saved state"),
    ],
)
def test_a_command_ends_with_a_code_and_one_line(error, code, message, capsys):
    def job() -> None:
        if error:
            raise error

    assert run_command("some.train", job, RESUMES) == code
    assert capsys.readouterr().err == (f"some.train: error: {message}\n" if error else "")


def test_what_is_no_users_mistake_is_not_hidden():
    def job() -> None:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        run_command("some.train", job)


def test_engines_by_hand():
    assert asdict(Engine(accelerator="cpu", devices=2, precision="16-mixed")) == {
        "accelerator": "cpu", "devices": 2, "strategy": "auto", "precision": "16-mixed",
    }  # fmt: skip
    with pytest.raises(ValueError, match="devices must be 1 or more, not 0"):
        Engine(devices=0)


def test_progress_is_reported_from_the_first_step(capsys):
    assert list(training_steps(range(5, 12), 5, 12)) == list(range(5, 12))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"step {step} of 12" for step in (6, 7, 8, 12)]
    assert list(training_steps(range(3), 0, 3, shown=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("bf16", "full", "chosen"), [(1.0, 3.0, "bf16-mixed"), (10.0, 1.0, "32-true"), (1, 1, "32-true")]
)
def test_precision_is_what_is_faster_here(monkeypatch, bf16, full, chosen):
    monkeypatch.delenv(precision.PROBED, raising=False)
    monkeypatch.setattr(precision, "step_seconds", lambda half: bf16 if half else full)
    assert precision.choose_precision("cpu") == chosen
    monkeypatch.setattr(precision, "step_seconds", lambda half: pytest.fail("measured twice"))
    assert precision.choose_precision("cpu") == chosen  # as the processes that this one starts would
    monkeypatch.delenv(precision.PROBED)


def test_the_probe_measures_both():
    assert all(0 < precision.step_seconds(half) < 10 for half in (False, True))
