"""Many short jobs: seconds of one command a job, and of a batch.

    .venv/bin/python benchmarks/batch.py --face CLIP --audio SPEECH [--jobs 10] [--seconds 3] [--set detector=haar]

Both run the same jobs on the same files, start-up included; CPU seconds are those of all processes. The first run of
the networks, which compiles them, happens before.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*words: object) -> None:
    """Runs a command of the repository."""
    subprocess.run([sys.executable, *map(str, words)], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def measured(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds, of child processes."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def one_by_one(jobs: int, flags: list[object], out: Path) -> None:
    """A command a job."""
    for number in range(jobs):
        run("inference.py", *flags, "--quiet", "--outfile", out / f"single{number}.mp4")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--face", type=Path, required=True)
    p.add_argument("--audio", type=Path, required=True)
    p.add_argument("--jobs", type=int, default=10)
    p.add_argument("--seconds", type=float, default=3.0)
    p.add_argument("--workers", type=int, help="of the batch (default: the command's own, one for two cores)")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = p.parse_args()
    face, audio = args.face.resolve(), args.audio.resolve()
    options = {"sync_mode": "cut", "end": args.seconds} | dict(pair.split("=", 1) for pair in args.set)
    flags: list[object] = ["--face", face, "--audio", audio]
    flags += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    workers = ["--workers", args.workers] if args.workers else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        table = out / "jobs.csv"
        names = ["face", "audio", "out", *options]
        values = [face, audio, "{}", *options.values()]
        row = ",".join(map(str, values))
        table.write_text("\n".join([",".join(names), *(row.format(f"{n}.mp4") for n in range(args.jobs))]))
        one_by_one(1, flags, out)
        single = measured(lambda: one_by_one(args.jobs, flags, out))
        batch = measured(lambda: run("-m", "inference.batch", table, "--out", out / "batch", *workers, "--quiet"))
    print(f"{args.jobs} commands: {single[0]:.1f} s, {single[1]:.1f} CPU s")
    print(f"a batch{f' on {args.workers} workers' if workers else ''}: {batch[0]:.1f} s, {batch[1]:.1f} CPU s")
    print(f"ratio: {batch[0] / single[0]:.2f} wall, {batch[1] / single[1]:.2f} CPU")


if __name__ == "__main__":
    main()
