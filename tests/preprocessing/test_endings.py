"""How a command ends: exit codes, signals, streams that are closed, and what a killed run leaves."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from preprocessing.commands import is_out_of_memory, run_command, write_whole
from preprocessing.errors import UsageError
from preprocessing.unfinished import PREFIX, UnfinishedFolder
from training.checkpoint import Checkpoint

REPOSITORY = Path(__file__).parents[2]
COMMAND = "import sys; from preprocessing.commands import *; sys.exit(run_command('p', lambda: {job}))"


def shell(job, redirection="", **environment):
    """Runs a job as a command under sh; returns (exit code, stderr)."""
    line = f'"{sys.executable}" -c "{COMMAND.format(job=job)}" {redirection}'
    done = subprocess.run(
        ["sh", "-c", line], cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_a_summary_that_cannot_be_printed_does_not_fail_a_finished_job():
    assert shell("say('done')") == (0, "done\n", "")
    assert shell("say('done ' * 9999)", "> /dev/full") == (0, "", "")
    assert shell("say('done')", ">&-") == (0, "", "")
    assert shell("say('done ' * 99999)", "| true")[0] == 0
    assert shell("say('caf\\u00e9 \\udcff')", PYTHONIOENCODING="ascii") == (0, "caf\\xe9 \\udcff\n", "")


def test_a_closed_standard_error_does_not_stop_a_run():
    assert shell("fail('p', 3, 'x')") == (3, "", "p: error: x\n")
    assert shell("fail('p', 3, 'x')", "2>&-")[0] == 3
    assert shell("int('x')", "2>&-")[0] == 2
    assert shell("int('x')", "2> /dev/full")[0] == 2
    code, out, _ = shell("say(str(open('/dev/zero').fileno() > 2))", "2>&-")  # it must not become standard error
    assert (code, out) == (0, "True\n")


def heed_signals():
    """Undoes what the tests' own background job or nohup ignores, which a child would ignore as well."""
    for name in ("SIGHUP", "SIGINT", "SIGQUIT"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def running(job, *prefix):
    """Starts a job that prints a line when it is ready."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", COMMAND.format(job=f"(print('ready', flush=True), {job})")],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT"])
def test_signals_end_a_command_cleanly(name):
    process = running("__import__('time').sleep(60)", "env", "-u", "X")
    process.send_signal(getattr(signal, name))
    assert process.communicate(timeout=30) == ("", "p: error: interrupted\n")
    assert process.returncode == 130


def test_nohup_still_ignores_a_hangup():
    ignore = "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    process = running("__import__('time').sleep(1.5)", sys.executable, "-c", ignore)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 1  # the job's value; it was not interrupted


def test_commands_run_outside_the_main_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run_command("p", lambda: 7)))
    thread.start()
    thread.join()
    assert codes == [7]


def test_running_out_of_memory_is_called_that(capsys):
    jobs = {
        "numpy": lambda: np.zeros(2**46),
        "torch": lambda: torch.empty(2**46),
        "opencv": lambda: cv2.resize(np.zeros((8, 8), np.float64), (2**20, 2**20)),
    }
    for job in jobs.values():
        assert run_command("p", lambda job=job: job() and 0) == 1
        assert capsys.readouterr().err == "p: error: out of memory\n"
    assert is_out_of_memory(ImportError("libtorch_cpu.so: failed to map segment from shared object"))
    assert not is_out_of_memory(RuntimeError("another reason"))
    assert not is_out_of_memory(ImportError("No module named 'torch'"))


def test_what_kill_9_leaves_is_swept_by_the_next_run(tmp_path):
    folder = f"__import__('preprocessing.unfinished').unfinished.UnfinishedFolder(Path({str(tmp_path)!r}))"
    job = f"[{folder}, print('made', flush=True), __import__('time').sleep(60)]"
    process = running(job)
    assert process.stdout.readline() == "made\n"
    foreign = tmp_path / f"{PREFIX}foreign"
    foreign.mkdir()
    (foreign / "owner").write_text("somebody else")
    with UnfinishedFolder(tmp_path) as own:
        assert len(list(tmp_path.iterdir())) == 3  # the other run is alive
        process.kill()
        process.communicate()
        with UnfinishedFolder(tmp_path) as next_:
            assert {str(path) for path in tmp_path.iterdir()} == {str(foreign), own, next_}
    assert list(tmp_path.iterdir()) == [foreign]


def test_a_text_file_is_written_through_a_link(tmp_path):
    target, link = tmp_path / "other" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("first", "second"):  # a dangling link, a link to a file
        write_whole(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_whose_weights_are_not_finite_is_refused(tmp_path, value):
    weights = {"layer.weight": torch.tensor([[1.0, value]]), "steps": torch.tensor(3)}
    Checkpoint("x", {}, {}, {}, weights).save(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"x\.safetensors is unusable: layer\.weight holds NaN or infinite weights"):
        Checkpoint.load(tmp_path / "x.safetensors", "x")
