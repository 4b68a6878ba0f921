"""Files of the service: every upload lies in a folder of its own under a random name."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

FACE, AUDIO, RESULT, PEOPLE_FILE = "face", "audio", "result.mp4", "people.npz"
_ID = re.compile(r"[0-9a-f]{32}")
UPLOAD_SECONDS = 3600  # an upload that no job has used is deleted after this time
YOUNG_SECONDS = 600  # a folder without a job may belong to a request that still uploads


class JobFiles:
    """The data folder: `jobs/ID/` with face, audio and result.mp4, `uploads/ID/` with a face and
    its people, `tmp/`, the queue's file.

    Ids are made here, never taken from a client; `folder` refuses whatever is not of their form.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.jobs, self.uploads, self.temporary = data / "jobs", data / "uploads", data / "tmp"

    def create(self) -> None:
        """Makes the folders, readable by this user only; removes what an earlier run left in `tmp/`."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        for folder in (self.data, self.jobs, self.uploads, self.temporary):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def database(self) -> Path:
        return self.data / "queue.sqlite3"

    def new(self, parent: Path) -> Path:
        """A new, empty folder with a random name: 128 bits that nobody can guess."""
        folder = parent / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder

    def job(self, job_id: str) -> Path:
        """The folder of a job."""
        return _inside(self.jobs, job_id)

    def upload(self, upload_id: str) -> Path:
        """The folder of an uploaded face."""
        return _inside(self.uploads, upload_id)

    def remove(self, folder: Path) -> None:
        """Deletes a folder; it may be gone already."""
        shutil.rmtree(folder, ignore_errors=True)

    def used_bytes(self) -> int:
        """Size of all files in the data folder."""
        return _size(self.data)

    def free_bytes(self) -> int:
        """Free space on the disk of the data folder."""
        return shutil.disk_usage(self.data).free

    def sweep(self, known: Iterable[str]) -> None:
        """Deletes uploads past their time, and folders of jobs that the queue does not know."""
        now, jobs = time.time(), set(known)
        for folder in _folders(self.uploads):
            if _age(folder, now) > UPLOAD_SECONDS:
                self.remove(folder)
        for folder in _folders(self.jobs):
            if folder.name not in jobs and _age(folder, now) > YOUNG_SECONDS:
                self.remove(folder)


def store(source: BinaryIO, target: Path) -> None:
    """Copies an uploaded file to its place."""
    with open(target, "xb") as file:
        shutil.copyfileobj(source, file, 2**20)


def share(source: Path, target: Path) -> None:
    """Gives a file a second name, without a copy where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def is_id(text: str) -> bool:
    """Whether a text has the form of an id: 32 hexadecimal digits."""
    return _ID.fullmatch(text) is not None


def _inside(parent: Path, name: str) -> Path:
    if not is_id(name):
        raise ValueError("not an id")
    return parent / name


def _folders(parent: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [entry for entry in parent.iterdir() if is_id(entry.name)]
    return []


def _age(folder: Path, now: float) -> float:
    with suppress(FileNotFoundError):
        return now - folder.stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
