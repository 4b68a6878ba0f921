"""Many jobs: tables, a killed run that is resumed on two workers of a scheduler, and the report."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from inference.batch import command as batch
from inference.batch import worker
from inference.batch.job_table import read_jobs
from preprocessing.errors import MediaError, UsageError
from tests.conftest import REPOSITORY
from tests.material import BOX, pictures_of, write_speech
from tests.processes import Command

pytest_plugins = ["tests.inference.bench"]
FLAGS = f"box={' '.join(map(str, BOX))}"


def table(folder: Path, *rows: str, header: str = "face,audio,out") -> Path:
    path = folder / "jobs.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


# Tables -------------------------------------------------------------------------------------------------------------


def test_a_table_means_its_own_folder_and_names_its_outputs(tmp_path):
    rows = 'a.mp4,"b, c.wav",,0.5', "sub/a.png,/sounds/d.wav,x/y.mov,"
    one, two = read_jobs(table(tmp_path, *rows, header="face,audio,out,strength"), tmp_path / "out", {"crf": "20"})
    assert (one.row, one.name, one.job.face, one.job.audio) == (
        2,
        "a_b, c.mp4",
        tmp_path / "a.mp4",
        tmp_path / "b, c.wav",
    )
    assert (one.job.options.strength, one.job.options.crf, two.job.options.strength) == (0.5, 20, 1.0)
    assert (two.name, two.job.outfile, two.job.audio) == ("x/y.mov", tmp_path / "out/x/y.mov", Path("/sounds/d.wav"))


def test_lines_of_json_may_have_parts(tmp_path):
    (tmp_path / "jobs.jsonl").write_text(
        '{"face": "a.mp4", "parts": [{"person": 1, "audio": "b.wav"}]}\n\n'
        '{"face": "a.mp4", "audio": "c.wav", "box": [1, 2, 3, 4]}\n'
    )
    one, two = read_jobs(tmp_path / "jobs.jsonl", tmp_path, {})
    assert one.job.parts[0].audio == tmp_path / "b.wav"
    assert (two.row, two.job.options.box) == (3, (1, 2, 3, 4))


def test_a_folder_pairs_faces_and_sounds_by_name(tmp_path):
    for name in ("anna.mp4", "anna.wav", "ben.jpg", "ben.mp3", "notes.txt"):
        (tmp_path / name).touch()
    jobs = read_jobs(tmp_path, tmp_path / "out", {})
    assert [(item.job.face.name, item.job.sounds()[0].name, item.name) for item in jobs] == [
        ("anna.mp4", "anna.wav", "anna.mp4"), ("ben.jpg", "ben.mp3", "ben.mp4")
    ]  # fmt: skip
    (tmp_path / "carl.mp4").touch()
    with pytest.raises(UsageError, match=r"such as carl.mp4 and carl.wav, not 1 and 0"):
        read_jobs(tmp_path, tmp_path / "out", {})


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("face,sound", "a,b", "needs the columns face and audio"),
        ("face,audio,out", "a,b", "line 2: 3 columns expected"),
        ("face,audio", "a,b,c", "line 2: 2 columns expected"),
        ("face,audio,colour", "a,b,red", "line 2: unknown option 'colour'"),
        ("face,audio,crf", "a,b,99", "line 2: crf must be between 0 and 51"),
        ("face,audio,crf", "a,b,many", "line 2: crf must be a number"),
        ("face,audio,out", "a,,c.mp4", "line 2: audio is missing"),
        ("face,audio,out", "a,b,../c.mp4", "line 2: out must be a file name in the folder of --out"),
        ("face,audio,out", "a,b,/c.mp4", "line 2: out must be a file name in the folder of --out"),
        ("face,audio,out", "a,b,x.mp4\na,c,X.mp4", "jobs 2 and 3 both write"),
        ("face,audio", "", "has no jobs"),
    ],
)
def test_a_wrong_row_is_named_before_any_work(tmp_path, header, row, message):
    with pytest.raises(UsageError) as error:
        read_jobs(table(tmp_path, row, header=header), tmp_path / "out", {})
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(MediaError, match="cannot be read: No such file"):
        read_jobs(tmp_path / "none.csv", tmp_path, {})
    (tmp_path / "a.jsonl").write_text("{face: a}")
    with pytest.raises(UsageError, match="line 1: not JSON"):
        read_jobs(tmp_path / "a.jsonl", tmp_path, {})


# Runs ---------------------------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextmanager
def dask(part: str, output: Path, *words: object) -> Iterator[None]:
    """`dask scheduler` or `dask worker`, as started by hand."""
    process = Command(f"distributed.cli.dask_{part}", [*words, "--no-dashboard"], REPOSITORY, output)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture
def jobs(media, tmp_path) -> list[str]:
    """A command for four jobs: one quick, one of a minute at first, one that fails, one quick."""
    rows = [f"{media}/face.png,speech.wav,{name}.mp4,100" for name in ("one", "two", "four")]
    rows.insert(2, f"{media}/nowhere.png,speech.wav,three.mp4,25")
    write_speech(tmp_path / "speech.wav", 0.4)
    path = table(tmp_path, *rows, header="face,audio,out,fps")
    engine = ("--set", f"checkpoint_path={media}/generator.safetensors", "--set", "backend=torch", "--set", FLAGS)
    return [str(path), "--out", str(tmp_path / "out"), *engine]


def states(folder: Path) -> dict[str, str]:
    report = json.loads((folder / "report.json").read_text())
    return {Path(row["out"]).stem: row["state"] for row in report["jobs"]}


def test_a_killed_batch_goes_on_with_what_is_left(jobs, tmp_path, capsys):
    """kill -9 after the first job; the rest runs on two workers of a scheduler in another process."""
    out = tmp_path / "out"
    lines = Path(jobs[0]).read_text().splitlines()
    write_speech(tmp_path / "long.wav", 60)
    Path(jobs[0]).write_text("\n".join([*lines[:2], lines[2].replace("speech.wav", "long.wav"), *lines[3:]]))
    process = Command("inference.batch.command", [*jobs, "--workers", "1"], REPOSITORY, tmp_path / "killed")
    try:
        wait_for(lambda: (out / "one.mp4").exists() and list(out.glob(".unfinished-*")))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    first = (out / "one.mp4").stat().st_mtime_ns
    Path(jobs[0]).write_text("\n".join(lines))

    file = tmp_path / "scheduler.json"
    with ExitStack() as stack:
        words = ("--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)
        stack.enter_context(dask("scheduler", tmp_path / "scheduler", *words))
        wait_for(lambda: file.exists() and file.read_text())
        address = json.loads(file.read_text())["address"]
        for name in ("worker1", "worker2"):
            own = (address, "--no-nanny", "--nthreads", 1, "--local-directory", tmp_path / "scratch")
            stack.enter_context(dask("worker", tmp_path / name, *own))
        assert batch.main([*jobs, "--scheduler", address]) == 1
    assert states(out) == {"one": "done", "two": "done", "three": "failed", "four": "done"}
    assert (out / "one.mp4").stat().st_mtime_ns == first
    assert len(pictures_of(out / "two.mp4")) == len(pictures_of(out / "four.mp4")) == 40
    assert sorted(path.name for path in out.iterdir()) == [".batch", "four.mp4", "one.mp4", "report.json", "two.mp4"]
    report = json.loads((out / "report.json").read_text())
    assert (report["done"], report["failed"]) == (3, 1)
    assert "nowhere.png does not exist" in report["jobs"][2]["error"]
    assert report["jobs"][1]["frames"] == 40
    printed = capsys.readouterr()
    assert printed.err.startswith("1 of 4 jobs were done before\n")
    assert "4/4 " in printed.err
    assert printed.out.startswith("3 done, 1 failed: ")


def test_only_what_has_changed_is_done_again(jobs, media, tmp_path, capsys, monkeypatch):
    ran = []
    real = worker.run_batch_job
    monkeypatch.setattr(worker, "run_batch_job", lambda item: ran.append(item.name) or real(item))
    assert batch.main([*jobs, "--workers", "1"]) == 1
    assert ran == ["one.mp4", "two.mp4", "three.mp4", "four.mp4"]
    ran.clear()
    (tmp_path / "out/one.mp4").unlink()
    assert batch.main([*jobs, "--workers", "1"]) == 1
    assert ran == ["one.mp4", "three.mp4"]  # what is gone, and what failed
    ran.clear()
    assert batch.main([*jobs, "--workers", "1", "--set", "crf=30"]) == 1
    assert len(ran) == 4
    assert batch.main([*jobs, "--workers", "0"]) == 2
    assert batch.main([*jobs, "--set", "crf"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("inference.batch: error: --set needs NAME=VALUE")
