"""A worker process: loads the networks once, then takes one job after the other from the queue."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from inference.options import Report
from inference.web.jobs.files import AUDIO, FACE, PEOPLE_FILE, RESULT, JobFiles
from inference.web.jobs.queue import Job, JobQueue
from inference.web.settings import EngineSettings
from preprocessing.errors import CancelledError, Wav2LipError

IDLE = 0.2  # seconds between looks at an empty queue
REPORT_EVERY = 0.25  # seconds between two notes of progress, which also ask whether to go on
PEOPLE, SPEAKERS, ANALYSIS, RENDER = "people", "speakers", "analysis", "render"
_log = logging.getLogger(__name__)


class LipSyncer(Protocol):
    """`inference.pipeline.LipSync`."""

    def __call__(self, face: Path, audio: Path, outfile: Path, **arguments: Any) -> Report: ...


@dataclass(frozen=True)
class WorkerTask:
    """What a worker process is told.

    Attributes:
        name: of the worker, by its device.
        load: makes the function that renders a job; it must be importable in another process.
    """

    name: str
    data: Path
    engine: EngineSettings
    device: str
    load: Callable[[EngineSettings, str], LipSyncer]


def load_engine(engine: EngineSettings, device: str) -> LipSyncer:
    """Loads the networks."""
    from inference.pipeline import LipSync

    kind, _, number = device.partition(":")
    if number:
        os.environ["CUDA_VISIBLE_DEVICES"] = number
    return LipSync.load(engine.checkpoint_path, kind, engine.backend)


def run_worker(task: WorkerTask) -> None:
    """The process's main function; it returns only if the networks cannot be loaded."""
    _follow_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service ends us
    files, queue = JobFiles(task.data), JobQueue(JobFiles(task.data).database)
    tempfile.tempdir = str(files.temporary)
    queue.report_worker(task.name, "starting", pid=os.getpid())
    try:
        model = task.load(task.engine, task.device)
    except (Wav2LipError, OSError, MemoryError, ImportError) as error:
        queue.report_worker(task.name, "failed", str(error) or type(error).__name__, os.getpid())
        return
    queue.report_worker(task.name, "ready", pid=os.getpid())
    while True:
        job = queue.claim(task.name)
        if job is None:
            time.sleep(IDLE)
        else:
            run_job(job, model, queue, files, task.engine.options)


def run_job(job: Job, model: LipSyncer, queue: JobQueue, files: JobFiles, service_options: dict[str, Any]) -> None:
    """Renders one job and notes how it ended; only a job that is done keeps its files."""
    progress = _Progress(job, queue)
    folder = files.job(job.id)
    state, error, report = "failed", None, None
    begin = time.monotonic()
    try:
        with chdir(folder):  # relative names keep the messages free of the service's own paths
            done = model(
                Path(FACE), Path(AUDIO), Path(RESULT), progress=progress.render,
                analysis_progress=progress.analysis, cancelled=progress.stopped, people=Path(PEOPLE_FILE),
                **job.options | service_options,
            )  # fmt: skip
        state, report = "done", _report(done)
    except CancelledError:
        state = "cancelled"
    except (Wav2LipError, OSError) as problem:
        error = " ".join(str(problem).split())
    except MemoryError:
        error = "out of memory: try a smaller video, or resize_factor 2"
    except Exception:  # a fault of ours must not stop the next job
        _log.exception("job %s: internal error", job.id)
        error = "internal error: the service's log has the details"
    kept = queue.finish(job, state, error=error, report=report)
    if kept and state != "done":
        files.remove(folder)
    _log.info("job %s: %s after %.1f s", job.id, state if kept else "taken over", time.monotonic() - begin)


def _report(done: Report) -> dict[str, Any]:
    values = done.values()
    return {name: values[name] for name in ("frames", "faces", "fps", "duration", "seconds", "notes")}


class _Progress:
    """Callbacks of a job: note the progress in the queue, and know from it whether the job is to stop."""

    def __init__(self, job: Job, queue: JobQueue) -> None:
        self._job, self._queue = job, queue
        self._next, self._stop, self._state = 0.0, False, (ANALYSIS, 0, 0)
        self._lock = threading.Lock()

    def analysis(self, unit: str, done: int, total: int) -> None:
        self._state = (unit if unit in (PEOPLE, SPEAKERS) else ANALYSIS, done, total)

    def render(self, done: int, total: int) -> None:
        self._state = (RENDER, done, total)

    def stopped(self) -> bool:
        """Whether the job was cancelled or taken away; asked for every frame, in any thread."""
        with self._lock:
            if time.monotonic() >= self._next:
                self._stop = self._stop or not self._queue.progress(self._job, *self._state)
                self._next = time.monotonic() + REPORT_EVERY
            return self._stop


def _follow_parent() -> None:
    """Ends this process as soon as the service is gone, even if it was killed."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
