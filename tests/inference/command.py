"""Builds and runs command lines, and checks their error messages."""

from __future__ import annotations

from pathlib import Path

from inference.cli import main
from tests.material import BOX

BOX_FLAG = ["--box", *map(str, BOX)]


def command(media: Path, **flags: object) -> list[str]:
    """Arguments of a valid job, with some flags replaced; None removes a flag."""
    values = {
        "face": media / "face.png", "audio": media / "speech.wav", "outfile": "out.mp4",
        "checkpoint_path": media / "generator.safetensors", "backend": "torch", "device": "cpu", "detector": "haar",
    } | flags  # fmt: skip
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]


def run(argv: list[str]) -> int:
    """Runs the command in process; returns its exit code."""
    try:
        return main(argv)
    except SystemExit as error:
        return int(error.code or 0)


def one_line(text: str) -> str:
    """Checks that `text` is a one-line error message, and returns it."""
    assert text.startswith("inference.py: error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text
