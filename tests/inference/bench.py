"""Fixtures for whole jobs: media files, jobs with a stub network, and checks of error exits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inference.command import one_line, run
from tests.inference.stub import StubDetector, stub
from tests.material import BOX, moving_photo, photo, write_generator, write_photo, write_speech, write_video


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> Path:
    """A folder with face.png, face.mp4 (10 frames, with audio), swaying.mp4 (30 frames, numbered), speech.wav
    (0.4 s), longer.wav (0.8 s) and generator.safetensors.
    """
    folder = tmp_path_factory.mktemp("media")
    write_photo(folder / "face.png")
    write_speech(folder / "speech.wav", 0.4)
    write_speech(folder / "longer.wav", 0.8)
    write_video(folder / "swaying.mp4", moving_photo(30))
    write_video(folder / "face.mp4", [photo()] * 10, sound=folder / "speech.wav")
    write_generator(folder / "generator.safetensors")
    return folder


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    """An empty output folder, set as the working directory."""
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refuse(capfd, out) -> Callable[..., str]:
    """Runs the command in process, checks its exit code and leftover files, and returns its one-line error."""

    def check(code: int, argv: list[str], left: tuple[str, ...] = ()) -> str:
        assert run(argv) == code
        printed = capfd.readouterr()
        assert printed.out == ""
        assert sorted(p.name for p in out.iterdir()) == sorted(left)
        return one_line(printed.err)

    return check


@pytest.fixture
def job(media, tmp_path) -> Callable:
    """Runs a job with the stub into out.mp4, by default with a constant box."""

    def run(**options):
        model = options.pop("model", None) or stub()
        files = {"face": media / "face.png", "audio": media / "longer.wav", "outfile": tmp_path / "out.mp4"}
        files |= {name: options.pop(name) for name in tuple(options) if name in files}
        if "detector" not in options and "load_track" not in options:
            options = {"box": BOX} | options
        return model(*files.values(), **options)

    return run


@pytest.fixture
def detector(monkeypatch) -> StubDetector:
    """Replaces every detector by a stub."""
    stub_detector = StubDetector()
    monkeypatch.setattr("inference.engine.load_detector", lambda *_, **__: stub_detector)
    return stub_detector
