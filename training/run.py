"""The folder of a training run: its logs and the state it resumes from."""

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

from preprocessing.errors import UsageError, display_path
from preprocessing.folder_lock import lock_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RESUMES = "interrupted; run the same command again to resume from the last saved state"
INSTALL = "pip install -r requirements-train.txt"


class RunFolder:
    """A run folder with `log.jsonl` (one line per logged step) and `state.pt` (the complete training state).

    Attributes:
        folder: created if it does not exist.
        board: TensorBoard writer for the same folder, or None.
    """

    def __init__(self, folder: Path, *, board: bool = False, writes: bool = True) -> None:
        """`board`: also log to TensorBoard. `writes`: False for all but one of several processes.

        Raises:
            UsageError: another process is training in this folder.
        """
        self.folder, self.writes = folder, writes
        self.board: SummaryWriter | None = None
        self.started = time.monotonic()
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = lock_folder(folder)
            except BlockingIOError:
                raise UsageError(f"another process is training in {display_path(folder)}") from None
            self.board = _open_board(folder, None) if board else None

    def log(self, step: int, **values: float) -> None:
        """Appends the values to the log and prints them."""
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

    def add_image(self, step: int, name: str, image: Path) -> None:
        """Adds an image file to TensorBoard."""
        if self.board:
            pixels = cv2.imread(str(image), cv2.IMREAD_COLOR_RGB)
            assert pixels is not None
            self.board.add_image(name, pixels, step, dataformats="HWC")
            self.board.flush()

    def write_config(self, recipe: Mapping[str, Any]) -> None:
        """Writes a recipe to config.json, usable with --config."""
        if self.writes:
            part = self.folder / "config.part"
            part.write_text(json.dumps(recipe, indent=2) + "\n")
            os.replace(part, self.folder / "config.json")

    def save_state(self, state: dict[str, Any]) -> None:
        """Saves the training state atomically, so a killed run keeps the last complete one."""
        if self.writes:
            save_atomic(state, self.folder / "state.pt")

    def load_state(self, recipe: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Loads the state to resume from, on the CPU; None for a new run.

        Args:
            recipe: the options of this run; the saved "recipe" must match except for the number of steps.

        Raises:
            UsageError: the state was trained with another recipe; the message names the field and both values.
        """
        path = self.folder / "state.pt"
        if not path.is_file():
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        if recipe is not None:
            self._check_recipe(state.get("recipe", {}), recipe)
        return state

    def _check_recipe(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        way = "resume with its config.json, or choose another folder"
        if theirs.keys() != ours.keys():
            some = ", ".join(sorted(theirs.keys() ^ ours.keys()))
            raise UsageError(
                f"the run in {self.folder} was trained by another version (differing options: {some}): {way}"
            )
        for name, value in ours.items():
            if name != "steps" and value != theirs[name]:
                raise UsageError(f"the run in {self.folder} has {name} {theirs[name]}, not {value}: {way}")

    def truncate_log(self, step: int) -> None:
        """Removes log entries after a step, since a run resumed there logs them again."""
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
    """torch.save to a temporary file, then rename."""
    part = path.with_name(f"{path.name}.part")
    torch.save(content, part)
    os.replace(part, path)


def _step(line: str) -> float:
    """The step of a log line; infinity for a partial line left by a killed run."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def _open_board(folder: Path, purge_from: int | None) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(f"TensorBoard logging needs tensorboard: {INSTALL}") from None
    return SummaryWriter(str(folder), purge_step=purge_from)


def due(step: int, every: int) -> bool:
    """Whether an action that runs every `every` steps is due at this step (never at step 0)."""
    return step > 0 and step % every == 0
