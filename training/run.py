"""A training run's folder: its logs and the state from which it goes on."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import torch
from tqdm import tqdm

from preprocessing.errors import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RESUMES = "interrupted; the same command goes on from the last saved state"
INSTALL = "pip install -r requirements-train.txt"


class RunFolder:
    """`log.jsonl` (one line a logged step) and `state.pt` (everything that changes while training).

    Attributes:
        folder: made if it is not there.
        board: TensorBoard's writer into the same folder, None without.
    """

    def __init__(self, folder: Path, *, board: bool = False, writes: bool = True) -> None:
        """`board`: TensorBoard gets the figures too. `writes`: False for all but one of several processes."""
        self.folder, self.writes = folder, writes
        self.board: SummaryWriter | None = None
        self.started = time.monotonic()
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            self.board = _open_board(folder, None) if board else None

    def log(self, step: int, **values: float) -> None:
        """Appends a line and prints it."""
        if not self.writes:
            return
        line = {"step": step, "seconds": round(time.monotonic() - self.started, 1)}
        line |= {name: round(float(value), 5) for name, value in values.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        tqdm.write("  ".join(f"{name} {value}" for name, value in line.items()))  # above a progress bar
        sys.stdout.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()

    def add_image(self, step: int, name: str, picture: Path) -> None:
        """Gives TensorBoard a picture file."""
        if self.board:
            pixels = cv2.imread(str(picture), cv2.IMREAD_COLOR_RGB)
            assert pixels is not None
            self.board.add_image(name, pixels, step, dataformats="HWC")
            self.board.flush()

    def write_config(self, recipe: Mapping[str, Any]) -> None:
        """Writes a recipe to config.json, good for --config."""
        if self.writes:
            part = self.folder / "config.part"
            part.write_text(json.dumps(recipe, indent=2) + "\n")
            os.replace(part, self.folder / "config.json")

    def save_state(self, state: dict[str, Any]) -> None:
        """Writes the state to resume from, beside its name first, so that a killed run keeps the last whole one."""
        if self.writes:
            save_atomic(state, self.folder / "state.pt")

    def load_state(self, recipe: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The state to resume from, on the CPU, or None for a new run.

        Args:
            recipe: the options of this training; the state's "recipe" must be the same but for the number of steps.

        Raises:
            UsageError: it was trained by another recipe; the field and both values are named.
        """
        path = self.folder / "state.pt"
        if not path.is_file():
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        if recipe is not None:
            self._check_recipe(state.get("recipe", {}), recipe)
        return state

    def _check_recipe(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        way = "go on with its config.json, or choose another folder"
        if theirs.keys() != ours.keys():
            some = ", ".join(sorted(theirs.keys() ^ ours.keys()))
            raise UsageError(f"the run in {self.folder} was trained by another version (options {some}): {way}")
        for name, value in ours.items():
            if name != "steps" and value != theirs[name]:
                raise UsageError(f"the run in {self.folder} has {name} {theirs[name]}, not {value}: {way}")

    def truncate_log(self, step: int) -> None:
        """Takes out of the logs what came after a step: a stopped run that goes on from there logs it again."""
        path = self.folder / "log.jsonl"
        if self.writes and path.is_file():
            lines = [line for line in path.read_text().splitlines(keepends=True) if _step(line) <= step]
            part = self.folder / "log.jsonl.part"
            part.write_text("".join(lines))
            os.replace(part, path)
        if self.board:
            self.board.close()
            self.board = _open_board(self.folder, step + 1)


def save_atomic(content: dict[str, Any], path: Path) -> None:
    """torch.save, beside the final name first."""
    part = path.with_name(f"{path.name}.part")
    torch.save(content, part)
    os.replace(part, path)


def _step(line: str) -> float:
    """A logged line's step; of a line that a killed run left unfinished: beyond all."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def _open_board(folder: Path, purge_from: int | None) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(f"the log for TensorBoard needs tensorboard: {INSTALL}") from None
    return SummaryWriter(str(folder), purge_step=purge_from)


def due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps happens at this one (never at step 0)."""
    return step > 0 and step % every == 0
