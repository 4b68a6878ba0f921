"""A folder belongs to one process at a time, and to nobody when that one has ended."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from preprocessing.folder_lock import lock_folder
from tests.conftest import REPOSITORY
from tests.processes import locking

# Locks the folder and is killed; what it has forked lives until its standard input ends.
FORKING = """
import os, signal, sys
from pathlib import Path
from preprocessing.folder_lock import lock_folder
lock = lock_folder(Path(sys.argv[1]))
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    with locking(tmp_path), pytest.raises(BlockingIOError):
        lock_folder(tmp_path)
    lock_folder(tmp_path).close()


def test_the_same_process_is_not_refused(tmp_path):
    with lock_folder(tmp_path), lock_folder(tmp_path):
        pass


def test_a_child_of_a_killed_process_does_not_keep_the_folder(tmp_path):
    command = [sys.executable, "-c", FORKING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.wait() == -signal.SIGKILL
        lock_folder(tmp_path).close()


def test_a_folder_that_is_missing_is_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError):
        lock_folder(tmp_path / "missing")
