"""Runs many jobs: `python -m inference.batch JOBS.csv|JOBS.jsonl|FOLDER --out DIR`.

A table has the columns face and audio, and may have out and any option's name; paths start at the table's folder. A
JSON-lines file has an object a line with the same names, or `parts` (docs/jobs.md). In a folder, a face and a sound of
one name make a job (anna.mp4, anna.wav).

A job that fails stops no other. Started again, the command does only what is left; report.json in DIR has a row a job.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.commands import Parser, run_command
from preprocessing.errors import UsageError, display_path

if TYPE_CHECKING:
    from inference.batch.batch_state import BatchState
    from inference.batch.job_table import BatchJob
    from inference.batch.worker import Outcome
    from preprocessing.build.dask_runner import WorkerFailure

PROGRAM = "inference.batch"
EPILOG = """\
examples:
  python -m inference.batch jobs.csv --out dubbed --workers 2
  python -m inference.batch jobs.jsonl --out dubbed --scheduler tcp://10.0.0.5:8786
  python -m inference.batch FOLDER --out dubbed --set strength=0.9 --set crf=18

exit codes: 0 every job is done; 1 some failed, see report.json; 2 usage error; 130 interrupted: run it again to resume.
"""


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser(PROGRAM, __doc__, EPILOG)
    p.add_argument("jobs", type=Path, metavar="JOBS", help=".csv table, .jsonl file or folder")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the videos and of report.json")
    p.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: one for two cores; 1 needs no Dask)"
    )
    p.add_argument("--scheduler", metavar="ADDRESS", help="tcp://host:port of a Dask scheduler whose workers to use")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="an option of every job that does not have its own, such as crf=18",
    )  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="no line for each job")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)
    return run_command(PROGRAM, lambda: _run(args), "interrupted: run the same command again to do what is left")


def _run(args: argparse.Namespace) -> int:
    from inference.batch.batch_state import BatchState, locked
    from inference.batch.job_table import read_jobs

    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers must be 1 or more, not {args.workers}")
    if args.workers is not None and args.scheduler:
        raise UsageError("--scheduler has workers of its own: leave out --workers")
    out = Path(os.path.abspath(args.out))
    jobs = read_jobs(Path(os.path.abspath(args.jobs)), out, _defaults(args.set))
    with locked(out):
        state = BatchState(jobs, out)
        try:
            _process(state, args)
        finally:
            state.write_report()
    report = state.report()
    print(f"{report['done']} done, {report['failed']} failed: {display_path(out / 'report.json')}")
    return 1 if report["failed"] else 0


def _defaults(given: list[str]) -> dict[str, Any]:
    pairs = [text.partition("=") for text in given]
    if wrong := [name + equals for name, equals, value in pairs if not (name and equals and value)]:
        raise UsageError(f"--set needs NAME=VALUE, not {wrong[0]!r}")
    return {name.replace("-", "_"): value for name, _, value in pairs}


def _process(state: BatchState, args: argparse.Namespace) -> None:
    """Runs the jobs that are left and prints a line for each."""
    from inference.batch.worker import Outcome

    total, finished, begun = len(state.jobs), len(state.jobs) - len(state.todo), time.monotonic()
    if finished and not args.quiet:
        print(f"{finished} of {total} jobs were done before", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        for count, (item, result) in enumerate(_results(state, args, stack), 1):
            outcome = result if isinstance(result, Outcome) else Outcome("failed", result.reason)
            state.record(item, outcome)
            if count % 10 == 0:
                state.write_report()
            if not args.quiet:
                left = (time.monotonic() - begun) / count * (len(state.todo) - count)
                print(f"{finished + count}/{total} {_line(item, outcome)}{_left(left)}", file=sys.stderr, flush=True)


def _results(
    state: BatchState, args: argparse.Namespace, stack: ExitStack
) -> Iterator[tuple[BatchJob, Outcome | WorkerFailure]]:  # fmt: skip
    """Each job with its outcome, from Dask's workers, or from this process for a single worker."""
    from inference.batch.worker import run_batch_job

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(args.workers or max(1, cores // 2), max(1, len(state.todo)))
    if not state.todo:
        return
    if workers == 1 and not args.scheduler:
        yield from ((item, run_batch_job(item)) for item in state.todo)
        return
    from preprocessing.build.dask_runner import connect, run_all

    client = stack.enter_context(connect(workers, args.scheduler, state.out))
    threads = None if args.scheduler else max(1, cores // workers)
    yield from run_all(client, state.todo, partial(run_batch_job, threads=threads))


def _line(item: BatchJob, outcome: Outcome) -> str:
    name = display_path(item.name)
    if outcome.state == "failed":
        return f"{name}: failed: {outcome.error}"
    return f"{name}: {outcome.frames} frames in {outcome.seconds:.1f} s"


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f", {hours}:{minutes:02}:{rest:02} left" if seconds > 0 else ""


if __name__ == "__main__":
    sys.exit(main())
