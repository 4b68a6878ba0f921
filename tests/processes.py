"""Commands in processes of their own, without the seconds in which each would import PyTorch.

A fork server imports it once; every command is a fork of that server, with its own process ID, signals and output.
What a command does between the interpreter's start and `main` is left to the tests that start `python -m`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lightning_fabric", "inference.pipeline", "wav2lip.train"])


class Command:
    """A running command.

    Args:
        module: holds `main(argv)`, which returns the exit code.
        argv: the words after the command's name.
        folder: the working directory.
        output: a new folder for the files `stdout` and `stderr`.
        environment: added to that of the tests.
    """

    def __init__(self, module: str, argv: Sequence[object], folder: Path, output: Path, **environment: str) -> None:
        output.mkdir()
        self.output = output
        words, extra = [str(word) for word in argv], {"OMP_NUM_THREADS": "1"} | environment
        self.process = start(_command, module, words, folder, output, extra)
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.exitcode

    def wait(self, seconds: float = 240) -> int:
        """The exit code, once it has ended.

        Raises:
            TimeoutError: it runs on.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise TimeoutError(f"{self.output} still runs after {seconds} s: {self.text()}")
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def text(self, stream: str = "stderr") -> str:
        """What it has written."""
        return (self.output / stream).read_text()


def start(target: Callable[..., Any], *args: Any) -> ForkServerProcess:
    """Runs an importable function in a fork of the server."""
    with chdir(REPOSITORY):  # where the server finds what it imports
        ensure_running()
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    return process


def _command(module: str, argv: list[str], folder: Path, output: Path, environment: dict[str, str]) -> None:
    os.setsid()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.default_int_handler if name == signal.SIGINT else signal.SIG_DFL)
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(output / name, os.O_CREAT | os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    sys.argv = [module, *argv]
    sys.exit(importlib.import_module(module).main(argv))


LOCKING = """
import sys
from pathlib import Path
from preprocessing.folder_lock import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locking(folder: Path) -> Iterator[None]:
    """Another process has locked the folder meanwhile."""
    command = [sys.executable, "-c", LOCKING, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


def two_ranks(target: Callable[..., Any], *args: Any) -> None:
    """Runs a function twice at once, as the processes 0 and 1 of a training on two devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    processes = [start(_ranked, places | {"LOCAL_RANK": str(rank)}, target, args) for rank in range(2)]
    try:
        for process in processes:
            process.join(240)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def _ranked(places: dict[str, str], target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(places)
    import torch

    torch.set_num_threads(1)
    try:
        target(*args)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
