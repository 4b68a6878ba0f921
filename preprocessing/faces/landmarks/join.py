"""Merges the trained face and mouth networks into one checkpoint for inference.

    python -m preprocessing.faces.landmarks.join runs/landmarks-face/network.safetensors \\
        runs/landmarks-mouth/network.safetensors landmarks.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from preprocessing.commands import Parser, run_command
from preprocessing.faces.landmarks.network_config import PARTS
from preprocessing.faces.landmarks.predictor import KIND
from preprocessing.faces.mesh import MESH_INDICES
from training.checkpoint import Checkpoint


def join_parts(face: Path, mouth: Path, target: Path) -> None:
    """Writes both networks to one float16 checkpoint.

    Raises:
        UsageError: a file is not a landmark network of the expected part.
    """
    parts = {part: Checkpoint.load(path, f"{KIND}-{part}") for part, path in zip(PARTS, (face, mouth), strict=True)}
    config = {"mesh": list(MESH_INDICES)} | {part: one.config["network"] for part, one in parts.items()}
    weights = {f"{part}.{name}": value for part, one in parts.items() for name, value in one.weights.items()}
    Checkpoint(KIND, config, {}, {}, weights, max(one.step for one in parts.values())).save(target, half=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    flags = Parser("preprocessing.faces.landmarks.join", __doc__)
    for name in (*PARTS, "target"):
        flags.add_argument(name, type=Path)
    given = flags.parse_args(argv)

    def job() -> None:
        join_parts(given.face, given.mouth, given.target)

    return run_command("preprocessing.faces.landmarks.join", job)


if __name__ == "__main__":
    sys.exit(main())
