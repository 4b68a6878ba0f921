"""How the tests give the command, and what a refusal looks like."""

from __future__ import annotations

from pathlib import Path

from inference.cli import main
from tests.material import BOX

BOX_FLAG = ["--box", *map(str, BOX)]


def command(media: Path, **flags: object) -> list[str]:
    """Flags of a job that works, but for those that are replaced."""
    chosen = {
        "face": media / "face.png", "audio": media / "speech.wav", "outfile": "out.mp4",
        "checkpoint_path": media / "generator.safetensors", "backend": "torch", "device": "cpu", "detector": "haar",
    } | flags  # fmt: skip
    return [part for name, value in chosen.items() if value is not None for part in (f"--{name}", str(value))]


def run(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as error:
        return int(error.code or 0)


def one_line(text: str) -> str:
    assert text.startswith("inference.py: error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text
