"""Keeps other processes out of a folder that one process works in."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

NAME = "lock"


def lock_folder(folder: Path) -> TextIO:
    """Locks a folder for this process for as long as the returned file in it is open, however the process ends.

    The lock is the process's own (`lockf`, not `flock`): one that it forks does not keep it when this one is killed,
    and a second call from the same process is not refused, so that a training can be resumed where it was started.
    A file system that cannot lock is not locked.

    Raises:
        BlockingIOError: another process has locked the folder.
        OSError: the folder is missing or cannot be written.
    """
    file = (folder / NAME).open("w")
    if fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError:
            pass  # some network file systems cannot lock
    return file
