"""The command that trains every shipped network: its stages, what it skips, and what it delivers."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from preprocessing.errors import TrainingError, UsageError
from training.checkpoint import Checkpoint
from wav2lip.all_weights import Stage, WeightOptions, deliver, main, run_stages, stages

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def options(tmp_path: Path) -> WeightOptions:
    videos = tmp_path / "my videos"
    videos.mkdir()
    return WeightOptions(videos, tmp_path / "out")


def writes(path: Path, text: str = "made") -> tuple[str, ...]:
    """A command that appends to a file."""
    return "-c", f"open({str(path)!r}, 'a').write({text!r})"


def test_every_shipped_weight_file_is_delivered(options):
    shipped = subprocess.run(
        ["git", "ls-files", "*.safetensors"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    delivered = {place for stage in stages(options) for place in stage.delivers}
    assert set(shipped) - delivered == {"wav2lip/weights/speech_encoder.safetensors"}  # OpenAI's, see its card


def test_stages_name_modules_and_files_that_exist(options):
    for stage in stages(replace(options, steps=2)):
        for flag, module, *arguments in stage.commands:
            assert flag == "-m"
            path = REPOSITORY / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            assert all(Path(word).is_file() for word in arguments if word.endswith(".yaml"))
    assert len({stage.name for stage in stages(options)}) == len(stages(options))


def test_a_limit_reaches_every_training(options):
    def limited(chosen: WeightOptions) -> set[str]:
        return {stage.name for stage in stages(chosen) if "'--steps', '2'" in str(stage.commands)}

    assert not limited(options)
    capped = limited(replace(options, steps=2))
    landmarks = {"landmarks-face", "landmarks-mouth", "face-detector"}
    assert capped >= landmarks | {"first-expert", "expert", "judge", "lip-motion", "encoder"}


def test_finished_stages_are_skipped_and_failed_ones_run_again(tmp_path, capfd):
    note, product, ready = tmp_path / "note", tmp_path / "product", tmp_path / "ready"
    needs = ("-c", f"open({str(ready)!r})")
    todo = [
        Stage("one", (writes(note), writes(product)), (product,)),
        Stage("two", (writes(note), needs), (note,)),
    ]
    with pytest.raises(TrainingError, match="the stage two failed with exit code 1"):
        run_stages(todo, tmp_path)
    ready.touch()
    run_stages(todo, tmp_path)
    run_stages(todo, tmp_path)
    assert note.read_text() == "made" * 3  # one once, two twice
    assert product.read_text() == "made"
    assert "[2/2] two: finished before" in capfd.readouterr().out
    product.unlink()
    run_stages(todo, tmp_path)
    assert note.read_text() == "made" * 4
    with pytest.raises(UsageError, match=r"one\.json was made with other options"):
        run_stages([replace(todo[0], commands=(writes(note),))], tmp_path)
    with pytest.raises(TrainingError, match=r"the stage three has not made .*nothing"):
        run_stages([Stage("three", (), (tmp_path / "nothing",))], tmp_path)


def test_files_are_delivered_with_their_hashes(options):
    best, last, log = (options.out / "runs" / name for name in ("best", "last", "log"))
    best.parent.mkdir(parents=True)
    stage = Stage(
        "one", (writes(last, "x"), writes(log, "y")), (last, log),
        {"room/weights/a.safetensors": (best, last), "room/weights/a.jsonl": (log,), "room/none": (best,)},
    )  # fmt: skip
    run_stages([stage], options.out)
    folder = deliver([stage], options)
    assert (folder / "room/weights/a.safetensors").read_text() == "x"
    made = json.loads((folder / "made.json").read_text())
    assert made["files"].keys() == {"room/weights/a.safetensors", "room/weights/a.jsonl"}
    entry = made["files"]["room/weights/a.safetensors"]
    assert (entry["sha256"], entry["from"]) == (hashlib.sha256(b"x").hexdigest(), "runs/last")
    assert entry["commands"] == [list(command) for command in stage.commands]
    assert (made["videos"], made["trial"]) == (str(options.videos), False)


def test_checkpoints_are_delivered_in_16_bits(options, tmp_path):
    made = options.out / "runs" / "net.safetensors"
    made.parent.mkdir(parents=True)
    Checkpoint("some-net", {}, {}, {}, {"weight": torch.full((3,), 1 / 3)}, 7).save(made)
    stage = Stage("one", (writes(tmp_path / "done"),), (made,), {"room/net.safetensors": (made,)})
    run_stages([stage], options.out)
    delivered = deliver([stage], options) / "room" / "net.safetensors"
    assert load_file(delivered)["weight"].dtype == torch.float16
    assert Checkpoint.load(delivered).step == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none", "--out", "o"], "none is not a folder of videos"),
        ([".", "--out", "o", "--steps", "0"], "must be 1 or more"),
        ([".", "--out", "o", "--stages", "painting"], "unknown stage 'painting': choose from dataset, "),
    ],
)
def test_wrong_usage_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "o").exists()


def test_make_asks_for_the_videos():
    dry = ["make", "-n", "weights"]
    done = subprocess.run([*dry, "DATA=a b", "STEPS=3"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0
    assert '-m wav2lip.all_weights "a b" --out "runs/weights"' in done.stdout
    assert "--steps 3" in done.stdout
    refused = subprocess.run(dry, cwd=REPOSITORY, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "make weights needs DATA=FOLDER" in refused.stderr
