"""The folder of a training run: its logs, its state, and who may write them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from preprocessing.errors import UsageError
from tests.processes import locking
from training.run import RunFolder, due, save_atomic


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


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    with locking(folder):
        RunFolder(folder, writes=False)  # as the other processes of one training
        with pytest.raises(UsageError, match=r"another process is training in .*a run"):
            RunFolder(folder)
    first = RunFolder(folder)
    RunFolder(folder).log(1, loss=2.0)  # resumed in the same process
    assert first.folder == folder


def test_a_run_keeps_its_folder_while_it_lives(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(AssertionError), locking(tmp_path):  # the other process is refused
        pass
    assert run.folder == tmp_path
