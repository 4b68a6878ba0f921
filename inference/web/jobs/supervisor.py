"""Starts one worker process a device, starts it again when it dies, and ends what no longer moves."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess

from inference.web.jobs.files import JobFiles
from inference.web.jobs.queue import JobQueue
from inference.web.jobs.worker import WorkerTask, run_worker

LOOK_EVERY = 0.4  # seconds
SWEEP_EVERY = 60.0
CANCEL_GRACE = 5.0  # a job that has not stopped by itself so long after its cancellation is stopped by force
STALL = 900.0  # a job without progress for so long is taken to hang
MAX_PAUSE = 60.0
QUICK_DEATH = 20.0  # a worker that dies so soon is started again after a pause, which doubles
_log = logging.getLogger(__name__)


@dataclass
class _Worker:
    task: WorkerTask
    process: SpawnProcess | None = None
    born: float = 0.0
    pause: float = 0.0
    due: float = 0.0


class Supervisor:
    """A thread that keeps the worker processes of a service alive, and deletes what is too old."""

    def __init__(self, tasks: list[WorkerTask], queue: JobQueue, files: JobFiles, keep_hours: float) -> None:
        self._workers = [_Worker(task) for task in tasks]
        self._queue, self._files, self._keep = queue, files, keep_hours * 3600
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor")
        self._swept = 0.0

    def start(self) -> None:
        """Takes back the jobs of an earlier run and starts the workers."""
        self._queue.forget_workers()
        for job in self._queue.release():
            self._files.remove(self._files.job(job.id))
        self._thread.start()

    def stop(self) -> None:
        """Ends the workers; jobs that run now run again when the service starts the next time."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._stop.wait(LOOK_EVERY):
                self._kill_stuck()
                for worker in self._workers:
                    self._keep_alive(worker)
                if time.monotonic() - self._swept > SWEEP_EVERY:
                    self._sweep()
        finally:
            for worker in self._workers:
                self._end(worker)

    def _keep_alive(self, worker: _Worker) -> None:
        process = worker.process
        if process is not None and process.exitcode is not None:
            self._bury(worker, process.exitcode)
        if worker.process is None and time.monotonic() >= worker.due:
            context = multiprocessing.get_context("spawn")
            worker.process = context.Process(target=run_worker, args=(worker.task,), name=worker.task.name)
            worker.born = time.monotonic()
            worker.process.start()

    def _bury(self, worker: _Worker, code: int) -> None:
        """Takes back the job of a dead worker, and says when it is to be started again."""
        quick = time.monotonic() - worker.born < QUICK_DEATH
        worker.pause = min(max(1.0, 2 * worker.pause), MAX_PAUSE) if quick else 0.0
        worker.due, worker.process = time.monotonic() + worker.pause, None
        _log.warning("worker %s ended (%d); starting it again in %.0f s", worker.task.name, code, worker.pause)
        self._release(worker)

    def _release(self, worker: _Worker, blame: bool = True) -> None:
        for job in self._queue.release(worker.task.name, blame=blame):
            self._files.remove(self._files.job(job.id))

    def _kill_stuck(self) -> None:
        stuck = self._queue.to_kill(CANCEL_GRACE, STALL)
        for worker in self._workers:
            if worker.task.name in stuck and worker.process is not None:
                worker.process.kill()
                worker.process.join()
                worker.born = 0.0  # no quick death: it is started again at once

    def _end(self, worker: _Worker) -> None:
        if worker.process is not None:
            worker.process.kill()
            worker.process.join()
            self._release(worker, blame=False)

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        for job_id in self._queue.expire(time.time() - self._keep):
            self._files.remove(self._files.job(job_id))
        self._files.sweep(self._queue.ids())
