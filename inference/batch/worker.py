"""What a worker of a batch does: one job after the other, with networks that it loads once."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.batch.job_table import BatchJob
from inference.job import engine_arguments
from preprocessing.errors import Wav2LipError
from preprocessing.process_heap import limit_arenas

if TYPE_CHECKING:
    from inference.pipeline import LipSync


@dataclass
class Outcome:
    """The outcome of a job: "done", or "failed" with an error of one line.

    Attributes:
        seconds: wall time of the job; loading the networks counts for the first job of a worker.
        frames, faces: frames of the output, and those with a generated mouth.
        stages: busy seconds by stage.
        warnings: one line each.
    """

    state: str
    error: str = ""
    seconds: float = 0.0
    frames: int = 0
    faces: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return asdict(self)


def run_batch_job(item: BatchJob, threads: int | None = None) -> Outcome:
    """Runs a job; its errors become the outcome.

    Args:
        threads: threads of the networks; None leaves them as they are.
    """
    limit_arenas()
    if threads is not None:
        _limit_threads(threads)
    begun = time.perf_counter()
    with _Warnings() as warnings:
        try:
            outcome = _run(item)
        except (Wav2LipError, OSError, MemoryError) as error:
            outcome = Outcome("failed", " ".join((str(error) or type(error).__name__).split()))
    outcome.seconds = round(time.perf_counter() - begun, 3)
    outcome.warnings += warnings.lines
    return outcome


def _run(item: BatchJob) -> Outcome:
    from inference.files.checks import check_files

    job, checkpoint = item.job, dict(item.engine).get("checkpoint_path")
    job.outfile.parent.mkdir(parents=True, exist_ok=True)
    # before loading anything
    check_files(job.face, job.sounds(), job.outfile, job.options, Path(checkpoint) if checkpoint else None)
    report = _model(item.engine).run(job)
    stages = {stage: round(value, 3) for stage, value in report.seconds.items()}
    outcome = Outcome("done", frames=report.frames, faces=report.faces, stages=stages)
    if untouched := report.frames - report.faces:
        outcome.warnings.append(f"{untouched} frames unchanged: without a face, or after the end of the speech")
    return outcome


@lru_cache(maxsize=2)
def _model(engine: tuple[tuple[str, str], ...]) -> LipSync:
    """Loads networks once per process; a face that several jobs have is looked at once, too."""
    from inference.mesh.engine import MeshEngine
    from inference.pipeline import LipSync

    loaded = LipSync.load(**engine_arguments(dict(engine)))
    return LipSync(loaded.engine.remembering()) if isinstance(loaded.engine, MeshEngine) else loaded


def _limit_threads(threads: int) -> None:
    """Limits OpenCV's threads, and torch's; where it is not imported yet, as without a generator, OpenMP's."""
    import cv2

    cv2.setNumThreads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


class _Warnings(logging.Handler):
    """Collects the warnings of a block instead of printing them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message once."""
        line = " ".join(record.getMessage().split())
        if line not in self.lines:
            self.lines.append(line)

    def __enter__(self) -> _Warnings:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self)
