"""Cost of building clips: throughput by stage and by number of workers, and peak memory.

    .venv/bin/python benchmarks/build.py VIDEOS [--detector yunet --yunet FILE] [--workers 1 2] [--times 10]

By stage: CPU seconds of one process that builds the clips of all videos, without start-up. By workers: the whole
command, including start-up. Memory: peak of a process that builds the clips of the longest video, and of the same video
looped several times.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.build.sources import Labels, VideoSource, find_sources  # noqa: E402
from preprocessing.build.video_pipeline import STAGES, ClipRecipe, VideoOutcome, make_clips  # noqa: E402
from preprocessing.media.video_writer import ffmpeg_binary  # noqa: E402


def looped(source: Path, target: Path, times: int) -> Path:
    """Loop a video this many times without re-encoding."""
    command = [ffmpeg_binary(), "-v", "error", "-y", "-stream_loop", str(times - 1), "-i", str(source), "-c", "copy"]
    subprocess.run([*command, str(target)], check=True)
    return target


def make(sources: list[VideoSource], recipe: ClipRecipe, pipe: Any) -> None:
    """Worker: build the clips of one video after the other, then send the outcomes and peak memory in MB."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, mock.patch("time.perf_counter", time.process_time):
        outcomes = [make_clips(source, Path(folder), recipe) for source in sources]
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    pipe.send((outcomes, int(peak[1]) / 1024 if peak else float("nan")))


def run_in_process(sources: list[VideoSource], recipe: ClipRecipe) -> tuple[list[VideoOutcome], float]:
    """Run `make` in a separate process; stage times are CPU seconds of all threads."""
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    process = context.Process(target=make, args=(sources, recipe, end))
    process.start()
    end.close()
    try:
        return pipe.recv()
    finally:
        process.join()


def command_seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds, including those of its workers, of preprocessing.build."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "preprocessing.build", *arguments]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the job failed: {' '.join(command)}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime


def print_stages(outcomes: list[VideoOutcome]) -> None:
    """The table by stage."""
    length = sum(outcome.seconds for outcome in outcomes)
    costs = {stage: sum(outcome.stages.get(stage, 0.0) for outcome in outcomes) for stage in STAGES}
    passed = sum(row.passes for outcome in outcomes for row in outcome.rows)
    print(f"{len(outcomes)} videos of {length:.1f} s, {passed} clips\n")
    print("| stage | CPU s | s of video per CPU s |\n|---|---|---|")
    for stage, cost in (costs | {"all": sum(costs.values())}).items():
        print(f"| {stage} | {cost:.2f} | {length / max(cost, 1e-3):.1f} |")


def print_workers(videos: Path, workers: list[int], recipe: ClipRecipe, length: float) -> None:
    """The table by workers."""
    print("\n| workers | wall s | CPU s | s of video per wall s | s of video per CPU s |\n|---|---|---|---|---|")
    for count in workers:
        with tempfile.TemporaryDirectory() as clips:
            arguments = [str(videos.resolve()), clips, "--workers", str(count), "--detector", recipe.detector]
            arguments += ["--speaker", "file"] + (["--yunet", str(recipe.yunet)] if recipe.yunet else [])
            wall, cpu = command_seconds(arguments)
        print(f"| {count} | {wall:.1f} | {cpu:.1f} | {length / wall:.2f} | {length / cpu:.2f} |", flush=True)


def print_memory(source: VideoSource, recipe: ClipRecipe, times: int) -> None:
    """The table by length."""
    print("\n| video | seconds | clips | peak MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = looped(source.path, Path(folder, "long" + source.path.suffix), times)
        for name, each in ((source.video, source), (f"{times} times", replace(source, path=path, id="long"))):
            (outcome,), peak = run_in_process([each], recipe)
            passed = sum(row.passes for row in outcome.rows)
            print(f"| {name} | {outcome.seconds:.1f} | {passed} | {peak:.0f} |", flush=True)


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--yunet", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--times", type=int, default=10)
    args = parser.parse_args()
    recipe = ClipRecipe(detector=args.detector, yunet=args.yunet.resolve() if args.yunet else None)
    sources = find_sources(args.videos, Labels(speaker="file"))
    outcomes, _ = run_in_process(sources, recipe)
    print_stages(outcomes)
    print_workers(args.videos, args.workers, recipe, sum(outcome.seconds for outcome in outcomes))
    longest = max(zip(outcomes, sources, strict=True), key=lambda pair: pair[0].seconds)[1]
    print_memory(longest, recipe, args.times)


if __name__ == "__main__":
    main()
