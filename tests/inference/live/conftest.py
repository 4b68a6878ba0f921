"""One person for all tests of live sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.live.avatar import Avatar
from inference.mesh.engine import MeshEngine
from tests.inference.live.material import prepared, small_engine
from tests.material import moving_photo, write_photo, write_video


@pytest.fixture(scope="package")
def engine() -> MeshEngine:
    return small_engine()


@pytest.fixture(scope="package")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("face") / "anna.mp4", moving_photo(16))


@pytest.fixture(scope="package")
def avatar(engine, video) -> Iterator[Avatar]:
    made = prepared(engine, video)
    yield made
    made.close()


@pytest.fixture(scope="package")
def portrait(engine, tmp_path_factory) -> Iterator[Avatar]:
    made = prepared(engine, write_photo(tmp_path_factory.mktemp("photo") / "anna.png"))
    yield made
    made.close()
