"""Clips of a real face that speaks, and an expert, for the tests of the generator's trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from syncnet.model import SmallSyncNet
from syncnet.sync_expert import SyncExpert
from tests.material import write_talking_clips


@pytest.fixture(autouse=True)
def _steady() -> Iterator[None]:
    """One thread, as a different summation order changes rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Two clips of the astronaut, whose mouth opens with the loudness of the demo's speech."""
    return write_talking_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def expert(tmp_path_factory) -> Path:
    """The checkpoint of an untrained expert."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "syncnet.safetensors"
    SyncExpert(SmallSyncNet()).save(path)
    return path
