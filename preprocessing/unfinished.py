"""Folders for files that are being written, next to their final place; what a killed run leaves there is swept."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: nothing is swept there
    fcntl = None  # type: ignore[assignment]

PREFIX = ".unfinished-"
OWNER = "owner"
MARK = b"wav2lip: removed by the next run that finds it unlocked\n"


def final_path(path: Path) -> Path:
    """Where a file must be put so that its name refers to it: the target of a symbolic link, else `path` itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


class UnfinishedFolder:
    """A hidden folder on the same disk as a file, so that finishing is a rename. A context manager that removes it.

    The operating system unlocks it when the process ends, however it ends; the next one in the same place removes it.
    The lock is the open file's (`flock`; that of `folder_lock` is the process's), so that no other job of the same
    process removes it either.

    Attributes:
        name: the folder's path.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        sweep(parent)
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent)
        self.name = self._folder.name
        self._owner: IO[bytes] | None = None
        if fcntl is not None:
            with suppress(OSError):  # some network file systems cannot lock
                self._owner = open(Path(self.name, OWNER), "wb")  # noqa: SIM115 - closed by `cleanup`
                fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._owner.write(MARK)  # only now may others ask whether it is locked
                self._owner.flush()

    def cleanup(self) -> None:
        """Removes the folder with its content; a second call does nothing."""
        self._folder.cleanup()
        if self._owner is not None:
            self._owner.close()

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *error: object) -> None:
        self.cleanup()


def sweep(parent: Path) -> None:
    """Removes the folders of runs that were killed: those with our mark that no process has locked."""
    if fcntl is None:
        return
    with suppress(OSError):
        for folder in parent.glob(PREFIX + "*"):
            with suppress(OSError):
                _remove_if_dead(folder)


def _remove_if_dead(folder: Path) -> None:
    with open(folder / OWNER, "rb") as owner:
        if owner.read() == MARK:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
