"""Clips of a real face that speaks, and an expert, for the tests of the generator's trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from syncnet.model import SmallSyncNet
from syncnet.sync_expert import SyncExpert
from tests.material import write_talking_clips


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
