"""The folder of a training run belongs to one process at a time."""

from __future__ import annotations

import pytest

from preprocessing.errors import UsageError
from tests.processes import locking
from training.run import RunFolder


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
