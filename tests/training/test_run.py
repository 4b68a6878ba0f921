"""The folder of a training run belongs to one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing.errors import UsageError
from training.run import RunFolder

HOLDER = """
import sys
from pathlib import Path
from pathlib import Path
from training.run import RunFolder
run = RunFolder(Path(sys.argv[1]))
print("holds", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    folder = tmp_path / "a run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    place = Path(__file__).parents[2]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=place)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"holds\n"
    RunFolder(folder, writes=False)  # as the other processes of one training
    with pytest.raises(UsageError, match=r"another process is training in .*a run"):
        RunFolder(folder)
    holder.communicate()
    first = RunFolder(folder)
    RunFolder(folder).log(1, loss=2.0)  # resumed in the same process
    assert first.folder == folder
