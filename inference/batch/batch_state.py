"""What a batch has done: a record a job, by which a second run does only what is left, and the report."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference.batch.job_table import BatchJob
from inference.batch.worker import Outcome
from preprocessing.commands import write_whole
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.folder_lock import lock_folder
from preprocessing.unfinished import sweep

STATE, REPORT = ".batch", "report.json"
VERSION = 1


class BatchState:
    """The jobs of a batch in the folder `out`; `todo`: those without a finished, unchanged output."""

    def __init__(self, jobs: Sequence[BatchJob], out: Path) -> None:
        self.jobs, self.out = jobs, out
        self._digests = {item.name: _digest(item) for item in jobs}
        self.outcomes = {item.name: outcome for item in jobs if (outcome := self._finished(item))}
        self.todo = [item for item in jobs if item.name not in self.outcomes]

    def record(self, item: BatchJob, outcome: Outcome) -> None:
        """Records the outcome of a job, in memory and on disk."""
        self.outcomes[item.name] = outcome
        if outcome.state == "done":
            values = {"version": VERSION, "digest": self._digests[item.name], "size": item.job.outfile.stat().st_size}
            write_whole(self._file(item), json.dumps(values | {"outcome": outcome.values()}))

    def report(self) -> dict[str, Any]:
        """The report: a row a job, in the order of the table."""
        rows: list[dict[str, Any]] = []
        for item in self.jobs:
            outcome = self.outcomes.get(item.name) or Outcome("waiting")
            files = {"row": item.row, "face": str(item.job.face), "audio": [str(path) for path in item.job.sounds()]}
            rows.append(files | {"out": str(item.job.outfile)} | outcome.values())
        states = [row["state"] for row in rows]
        counts = {state: states.count(state) for state in ("done", "failed", "waiting")}
        return counts | {"seconds": round(sum(row["seconds"] for row in rows), 3), "jobs": rows}

    def write_report(self) -> None:
        """Writes report.json."""
        write_whole(self.out / REPORT, json.dumps(self.report(), indent=2) + "\n")

    def _file(self, item: BatchJob) -> Path:
        return self.out / STATE / f"{hashlib.sha256(item.name.encode()).hexdigest()[:32]}.json"

    def _finished(self, item: BatchJob) -> Outcome | None:
        """The outcome of an earlier run, if nothing has changed since; a damaged record counts as none."""
        try:
            values = json.loads(self._file(item).read_text(encoding="utf-8"))
            same = (values["version"], values["digest"]) == (VERSION, self._digests[item.name])
            return Outcome(**values["outcome"]) if same and item.job.outfile.stat().st_size == values["size"] else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _digest(item: BatchJob) -> str:
    """Changes with the job, its options, and its input files."""
    job = item.job
    options = {name: str(value) for name, value in asdict(job.options).items()}
    parts = [asdict(part) for part in job.parts]
    files = [_stamp(path) for path in (job.face, *job.sounds())]
    values = [options, parts, files, list(item.engine)]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _stamp(path: Path) -> list[object]:
    try:
        status = path.stat()
        return [str(path.absolute()), status.st_size, status.st_mtime_ns]
    except OSError:  # the job will report the error
        return [str(path.absolute()), -1, 0]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Creates the folder, locks it for this process, and removes what a killed run has left in it.

    Raises:
        MediaError: the folder cannot be written.
        UsageError: another batch is using it.
    """
    try:
        (out / STATE).mkdir(parents=True, exist_ok=True)
        lock = lock_folder(out / STATE)
    except BlockingIOError:
        raise UsageError(f"another batch is using {display_path(out)}") from None
    except OSError as error:
        raise MediaError(f"{display_path(out)} cannot be written: {error.strerror}") from error
    with lock:
        for folder, _, _ in os.walk(out):
            sweep(Path(folder))
        yield
