"""Fixtures: reference data next to the repository, and media generated from real recordings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data._utils import signal_handling

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data next to the repository; skips if it is missing."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference data beside the repository is absent")
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_handler_of_ended_children() -> None:
    """PyTorch's loaders with worker processes set a handler for SIGCHLD, which stays for the rest of the tests. On one
    kind of virtual machine the kernel now and then could not deliver that signal, and ended the process without a word.
    Without a handler the signal is ignored; loaders look every few seconds whether their workers live anyway.
    """
    signal_handling._SIGCHLD_handler_set = True


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch: another order of sums changes their rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
