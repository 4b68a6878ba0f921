"""The queue of jobs: one SQLite file that survives a restart, shared by the API and the workers."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from preprocessing.errors import MediaError, Wav2LipError, display_path

MAX_ATTEMPTS = 3  # a job whose worker died so often is given up
FINISHED = ("done", "failed", "cancelled")
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, state TEXT NOT NULL, options TEXT NOT NULL,
    media TEXT NOT NULL, created REAL NOT NULL, started REAL, finished REAL, worker TEXT, claim TEXT,
    attempts INTEGER NOT NULL DEFAULT 0, stage TEXT, done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    updated REAL, cancelled REAL, error TEXT, report TEXT
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, number);
CREATE TABLE IF NOT EXISTS workers (name TEXT PRIMARY KEY, state TEXT NOT NULL, message TEXT, pid INTEGER);
"""


class QueueFullError(Wav2LipError):
    """As many jobs wait as the limit allows."""


@dataclass(frozen=True)
class Job:
    """One row of the queue; times are seconds since 1970.

    Attributes:
        number: order of arrival.
        state: queued, running, done, failed or cancelled.
        options: what the client asked for, as JSON values.
        media: what is known of the face file: width, height, seconds, type.
        worker, claim: who works on it, and the secret of this attempt; only its holder may change the row.
        stage, done, total: progress within a stage.
        cancelled: when its cancellation was asked for.
        error: the one-line message of a failed job.
        report: frames, faces, fps and seconds of a finished one.
    """

    number: int
    id: str
    state: str
    options: dict[str, Any]
    media: dict[str, Any]
    created: float
    started: float | None
    finished: float | None
    worker: str | None
    claim: str | None
    attempts: int
    stage: str | None
    done: int
    total: int
    updated: float | None
    cancelled: float | None
    error: str | None
    report: dict[str, Any] | None

    @classmethod
    def of(cls, row: sqlite3.Row) -> Job:
        """Reads a row of the table."""
        values = {f.name: row[f.name] for f in fields(cls)}
        for name in ("options", "media", "report"):
            values[name] = json.loads(values[name]) if values[name] else None
        return cls(**values)


class JobQueue:
    """The jobs in a SQLite file. Every method is one transaction, so processes and threads may share the file.

    Raises:
        MediaError: the file is of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise MediaError(f"the queue {display_path(path)} is of another version: choose another --data")
            db.executescript(f"PRAGMA journal_mode = WAL;{_SCHEMA}PRAGMA user_version = {_VERSION};")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=20, isolation_level="IMMEDIATE")) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = NORMAL")
            with db:
                yield db

    # The API's side ---------------------------------------------------------------------------------------------------

    def add(self, job_id: str, options: dict[str, Any], media: dict[str, Any], limit: int) -> None:
        """Appends a job.

        Raises:
            QueueFullError: `limit` jobs wait already.
        """
        with self._transaction() as db:
            db.execute("BEGIN IMMEDIATE")
            if _count(db, "queued") >= limit:
                raise QueueFullError(f"{limit} jobs are waiting already: try again later")
            row = (job_id, json.dumps(options), json.dumps(media), time.time())
            db.execute("INSERT INTO jobs (id, state, options, media, created) VALUES (?, 'queued', ?, ?, ?)", row)

    def get(self, job_id: str) -> Job | None:
        """The job, None if it is not known (any more)."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return Job.of(row) if row else None

    def position(self, job: Job) -> int:
        """How many jobs will start before this one."""
        with self._transaction() as db:
            query = "SELECT count(*) FROM jobs WHERE state = 'queued' AND number < ?"
            return int(db.execute(query, (job.number,)).fetchone()[0])

    def cancel(self, job_id: str) -> None:
        """Cancels a waiting job at once; asks the worker of a running one to stop."""
        now = time.time()
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, cancelled = ? WHERE id = ? AND state = 'queued'",
                (now, now, job_id),
            )
            db.execute(
                "UPDATE jobs SET cancelled = ? WHERE id = ? AND state = 'running' AND cancelled IS NULL", (now, job_id)
            )

    def forget(self, job_id: str) -> None:
        """Removes a finished job's row."""
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE id = ? AND state IN ('done', 'failed', 'cancelled')", (job_id,))

    def counts(self) -> dict[str, int]:
        """Number of waiting and of running jobs."""
        with self._transaction() as db:
            return {state: _count(db, state) for state in ("queued", "running")}

    # The workers' side ------------------------------------------------------------------------------------------------

    def claim(self, worker: str) -> Job | None:
        """Takes the job that waits longest; None if none waits."""
        now, claim = time.time(), secrets.token_hex(16)
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET state = 'running', worker = ?, claim = ?, attempts = attempts + 1, started = ?, "
                "updated = ?, stage = NULL, done = 0, total = 0 WHERE number = "
                "(SELECT min(number) FROM jobs WHERE state = 'queued') AND state = 'queued' RETURNING *",
                (worker, claim, now, now),
            ).fetchone()
        return Job.of(row) if row else None

    def progress(self, job: Job, stage: str, done: int, total: int) -> bool:
        """Notes the progress; returns whether to go on: the job is neither cancelled nor taken by someone else."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET stage = ?, done = ?, total = ?, updated = ? "
                "WHERE id = ? AND claim = ? AND state = 'running' RETURNING cancelled",
                (stage, done, total, time.time(), job.id, job.claim),
            ).fetchone()
        return row is not None and row["cancelled"] is None

    def finish(self, job: Job, state: str, *, error: str | None = None, report: dict[str, Any] | None = None) -> bool:
        """Ends a running job; returns False, and changes nothing, if the caller's claim is no longer valid."""
        values = (state, time.time(), error, json.dumps(report) if report else None, job.id, job.claim)
        with self._transaction() as db:
            done = db.execute(
                "UPDATE jobs SET state = ?, finished = ?, error = ?, report = ?, worker = NULL, claim = NULL "
                "WHERE id = ? AND claim = ? AND state = 'running'",
                values,
            )
            return done.rowcount == 1

    def report_worker(self, name: str, state: str, message: str | None = None, pid: int | None = None) -> None:
        """Notes a worker's state: starting, ready or failed."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?)", (name, state, message, pid))

    # The supervisor's side --------------------------------------------------------------------------------------------

    def workers(self) -> list[dict[str, Any]]:
        """Name, state, message and process id of every worker."""
        with self._transaction() as db:
            return [dict(row) for row in db.execute("SELECT * FROM workers ORDER BY name")]

    def release(self, worker: str | None = None, *, blame: bool = True) -> list[Job]:
        """Ends the claims of a dead worker (None: of all). Its job waits again, first in line; it ends if it was
        cancelled, or if it has been tried MAX_ATTEMPTS times. Returns the jobs that ended.

        Args:
            blame: whether the job may be the cause of the death; otherwise the attempt does not count.
        """
        with self._transaction() as db:
            db.execute("BEGIN IMMEDIATE")
            query = "SELECT * FROM jobs WHERE state = 'running' AND (? IS NULL OR worker = ?)"
            jobs = [Job.of(row) for row in db.execute(query, (worker, worker))]
            ended = []
            for job in jobs:
                state, error = _after_death(job)
                if state != "queued":
                    ended.append(job)
                values = (state, error, int(not blame), None if state == "queued" else time.time(), job.number)
                db.execute(
                    "UPDATE jobs SET state = ?, error = ?, worker = NULL, claim = NULL, stage = NULL, done = 0, "
                    "total = 0, attempts = attempts - ?, finished = ? WHERE number = ?",
                    values,
                )
        return ended

    def forget_workers(self) -> None:
        """Clears the table of workers, when the service starts."""
        with self._transaction() as db:
            db.execute("DELETE FROM workers")

    def to_kill(self, grace: float, stall: float) -> list[str]:
        """Workers whose job was cancelled `grace` seconds ago or shows no progress for `stall` seconds."""
        now = time.time()
        with self._transaction() as db:
            query = "SELECT worker FROM jobs WHERE state = 'running' AND (cancelled < ? OR updated < ?)"
            return [row["worker"] for row in db.execute(query, (now - grace, now - stall))]

    def expire(self, before: float) -> list[str]:
        """Removes the rows of jobs that finished before a time; returns their ids."""
        with self._transaction() as db:
            return [row["id"] for row in db.execute("DELETE FROM jobs WHERE finished < ? RETURNING id", (before,))]

    def ids(self) -> set[str]:
        """The ids of all jobs."""
        with self._transaction() as db:
            return {row["id"] for row in db.execute("SELECT id FROM jobs")}


def _count(db: sqlite3.Connection, state: str) -> int:
    return int(db.execute("SELECT count(*) FROM jobs WHERE state = ?", (state,)).fetchone()[0])


def _after_death(job: Job) -> tuple[str, str | None]:
    """State and error of a job whose worker died."""
    if job.cancelled is not None:
        return "cancelled", None
    if job.attempts >= MAX_ATTEMPTS:
        return "failed", f"the worker process died {job.attempts} times while working on this job"
    return "queued", None
