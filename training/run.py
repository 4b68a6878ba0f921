"""A training run's folder: its log and the state from which it goes on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch


class Run:
    """`log.jsonl` (one line a logged step) and `state.pt` (everything that changes while training)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()

    def log(self, step: int, **values: float) -> None:
        """Appends a line and prints it."""
        line = {"step": step, "seconds": round(time.monotonic() - self.started, 1)}
        line |= {name: round(float(value), 5) for name, value in values.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print("  ".join(f"{name} {value}" for name, value in line.items()), flush=True)

    def save_state(self, state: dict[str, Any]) -> None:
        """Writes the state to resume from, beside its name first, so that a killed run keeps the last whole one."""
        part = self.folder / "state.pt.part"
        torch.save(state, part)
        os.replace(part, self.folder / "state.pt")

    def load_state(self) -> dict[str, Any] | None:
        """The state to resume from, or None for a new run."""
        path = self.folder / "state.pt"
        return torch.load(path, weights_only=True) if path.is_file() else None


def due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps happens at this one (never at step 0)."""
    return step > 0 and step % every == 0
