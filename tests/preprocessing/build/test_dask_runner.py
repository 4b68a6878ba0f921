"""Workers: local or of an existing scheduler, interrupted, killed, and each with its own GPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from preprocessing.build import command as build
from preprocessing.build import dask_runner as cluster
from tests.preprocessing.build.planted import REPOSITORY, Bench, plant, without_workers


def test_each_worker_has_a_gpu():
    assert [cluster.worker_device(name, 4) for name in (0, 3, 5, "gpu-6", "tcp://host")] == [
        "cuda:0", "cuda:3", "cuda:1", "cuda:2", "cuda:0",
    ]  # fmt: skip
    assert cluster.worker_device(3, 0) == "cuda:0"


def processes_of(group: int) -> set[int]:
    """The running processes of a group."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(owner) == group and state != "Z":
            found.add(int(folder.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[tuple[Bench, subprocess.Popen[str]]]:
    """A build in a separate process group, with one video done and one in progress that takes a minute."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("looks for processes in Linux's /proc")
    bench = Bench(tmp_path)
    video = plant(bench.videos / "anna" / "fast.mp4")
    for name in ("slow1", "slow2"):
        shutil.copy(video, video.with_stem(name))
    with subprocess.Popen(
        bench.command(), cwd=REPOSITORY, env=bench.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as job:  # fmt: skip
        try:
            wait_for(lambda: bench.opened() == 2)
            yield bench, job
        finally:
            for process in processes_of(job.pid):
                os.kill(process, signal.SIGKILL)


def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(at_work, capsys):
    bench, job = at_work
    assert build.main(bench.command()[3:]) == 2
    assert "another build is using" in capsys.readouterr().err
    os.killpg(job.pid, signal.SIGINT)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert errors.splitlines() == [
        "2 of 3 videos remain; run the same command again to resume", "preprocessing.build: error: interrupted"
    ]  # fmt: skip
    assert {video: row.fate for video, row in bench.fates().items()} == {"anna/fast.mp4": "made"}
    assert [row.video for row in bench.rows() if row.passes] == ["anna/fast.mp4"]
    wait_for(lambda: not processes_of(job.pid), 20)


def test_a_killed_job_leaves_no_process_and_goes_on(at_work, monkeypatch):
    bench, job = at_work
    job.kill()
    wait_for(lambda: not processes_of(job.pid), 30)
    assert without_workers(monkeypatch)(bench) == (0, {"anna/slow1.mp4", "anna/slow2.mp4"})
    assert [row.reason for row in bench.fates().values()] == ["", "duplicate", "duplicate"]


@contextmanager
def dask(*words: object) -> Iterator[None]:
    """`dask scheduler` or `dask worker`, as started by hand."""
    command = [sys.executable, "-m", "dask", *map(str, words), "--no-dashboard"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def test_workers_of_a_scheduler_that_is_already_there(tmp_path: Path, monkeypatch, capsys):
    bench = Bench(tmp_path)
    plant(bench.videos / "talk.mp4")
    file, address = tmp_path / "scheduler.json", ""
    with dask("scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", file):
        wait_for(file.exists)
        address = address_in(file)
        monkeypatch.setattr(cluster, "WORKER_TIMEOUT", 0.2)
        assert build.main(bench.command("--scheduler", address)[3:]) == 2
        assert f"no worker joined {address}" in capsys.readouterr().err
        monkeypatch.undo()
        with dask("worker", address, "--nthreads", 1, "--local-directory", tmp_path / "scratch"):
            assert build.main(bench.command("--scheduler", address)[3:]) == 0
    assert [row.fate for row in bench.fates().values()] == ["made"]
    assert "1 made" in capsys.readouterr().out


def address_in(file: Path) -> str:
    while True:
        try:
            return json.loads(file.read_text())["address"]
        except ValueError:
            time.sleep(0.05)
