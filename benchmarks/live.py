"""How well a live session keeps real time: late frames, latency from push to picture, CPU and memory.

    .venv/bin/python benchmarks/live.py --face anna.mp4 --audio speech.wav [--seconds 60] [--sessions 1] [--json]
    .venv/bin/python benchmarks/live.py --audio speech.wav --compare 0.04 0.2 0.4

The sound is pushed in pieces of 20 ms at the clock's pace, as from a microphone. The latency of a frame is the time
from the push of the sound that it shows to the moment at which the frame is given out. `--compare` needs no face: it
compares the lips' opening with each look-ahead to that of the whole recording.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from inference.live.avatar import Avatar  # noqa: E402
from inference.live.session import LiveSession  # noqa: E402
from inference.pipeline import LipSync  # noqa: E402
from preprocessing.commands import Parser, run_command  # noqa: E402
from preprocessing.errors import UsageError  # noqa: E402
from preprocessing.media.audio import load_audio  # noqa: E402
from wav2lip.lip_motion.motion import LipMotionModel, MotionRange  # noqa: E402
from wav2lip.lip_motion.streaming import MotionStream  # noqa: E402

RATE = 16000
PIECE = RATE // 50  # samples pushed at once: 20 ms
MEMORY_EVERY = 5.0  # seconds
MINUTE = 12  # of these


@dataclass
class Measured:
    """What one session showed: frames, late and dropped ones, and the latency of each speaking frame in seconds."""

    frames: int = 0
    late: int = 0
    dropped: int = 0
    latencies: list[float] = field(default_factory=list)


def measure(session: LiveSession, samples: np.ndarray, seconds: float) -> Measured:
    """Feeds a session at the clock's pace and consumes its frames."""
    pushed: list[float] = []
    total = round(seconds * RATE / PIECE)
    start = time.monotonic() + 0.5

    def feed() -> None:
        for number in range(total):
            time.sleep(max(0.0, start + (number + 1) * PIECE / RATE - time.monotonic()))
            piece = np.take(samples, np.arange(number * PIECE, (number + 1) * PIECE), mode="wrap")
            pushed.append(time.monotonic())
            session.push(piece, RATE)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    result = Measured()
    for frame in session.frames():
        now, heard = time.monotonic(), session.report.heard
        if heard is not None and int(heard * RATE / PIECE) < len(pushed):
            result.latencies.append(now - pushed[int(heard * RATE / PIECE)])
        if frame.timestamp >= seconds + 0.5:
            break
    report = session.report
    result.frames, result.late, result.dropped = report.frames, report.late, report.dropped
    feeder.join()
    return result


def measure_all(lipsync: LipSync, avatar: Avatar, samples: np.ndarray, seconds: float, sessions: int,
                lookahead: float) -> dict[str, object]:  # fmt: skip
    """Runs sessions at the same time, each in a thread, and sums up."""
    results: list[Measured] = []
    memory: list[float] = []
    done = threading.Event()

    def run() -> None:
        with lipsync.live(avatar, lookahead=lookahead, sample_rate=RATE) as session:
            results.append(measure(session, samples, seconds))

    def watch() -> None:
        while not done.wait(MEMORY_EVERY):
            memory.append(_memory_mb())

    watcher = threading.Thread(target=watch, daemon=True)
    threads = [threading.Thread(target=run) for _ in range(sessions)]
    wall, cpu = time.monotonic(), time.process_time()
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    done.set()
    return summary(results, memory, cpu / wall) | {"seconds": seconds, "sessions": sessions, "lookahead": lookahead}


def summary(results: Sequence[Measured], memory: Sequence[float], cores: float) -> dict[str, object]:
    """The figures by name; a dropped frame counts as late."""
    latencies = 1000 * np.concatenate([result.latencies for result in results])
    due = sum(result.frames + result.dropped for result in results)
    missed = sum(result.late + result.dropped for result in results)
    return {
        "late_share": round(missed / max(due, 1), 5),
        "latency_ms_median": round(float(np.median(latencies)), 1) if len(latencies) else None,
        "latency_ms_p99": round(float(np.percentile(latencies, 99)), 1) if len(latencies) else None,
        "cpu_share": round(cores / (os.cpu_count() or 1), 3),
        "cores": round(cores, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "memory_growth_mb": round(memory[-1] - memory[len(memory) // 5], 1) if len(memory) > 4 else None,
        "memory_mb_by_minute": [round(value, 1) for value in memory[MINUTE - 1 :: MINUTE]],
        "load": [round(value, 1) for value in os.getloadavg()],
        "frames": due - sum(result.dropped for result in results),
        "dropped": sum(result.dropped for result in results),
    }


def compare(samples: np.ndarray, lookahead: float) -> dict[str, float]:
    """How far the opening of the lips, every 40 ms, differs from that of the whole recording, units."""
    model = LipMotionModel.load()
    whole = model.displacements(samples)
    times = [Fraction(number, 25) for number in range(len(samples) * 25 // RATE)]
    stream = MotionStream(model, MotionRange(), lookahead)
    stream.push(samples)
    stream.end()
    rows = np.concatenate([stream.coefficients(time) for time in times])
    live = np.maximum(rows @ whole.space.opening * whole.scale + whole.rest_gap, 0)
    known = whole.opening(times)
    shifts = range(-5, 6)
    best = max(shifts, key=lambda shift: np.corrcoef(np.roll(live, -shift)[5:-5], known[5:-5])[0, 1])
    return {
        "lookahead": lookahead,
        "r": round(float(np.corrcoef(live, known)[0, 1]), 4),
        "rms": round(float(np.sqrt(np.mean((live - known) ** 2))), 3),
        "deviation": round(float(known.std()), 3),
        "shift_frames": best,
    }


def _memory_mb() -> float:
    """Resident memory of this process (Linux), MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser("benchmarks.live", __doc__)
    p.add_argument("--face", type=Path, help="video, photo or .avatar of the person")
    p.add_argument("--audio", type=Path, required=True, help="speech, repeated as often as needed")
    p.add_argument("--seconds", type=float, default=60.0, help="length of the test (default: %(default)g)")
    p.add_argument("--sessions", type=int, default=1, help="sessions at the same time (default: %(default)s)")
    p.add_argument("--lookahead", type=float, default=0.2, help="seconds (default: %(default)g)")
    p.add_argument(
        "--compare", type=float, nargs="+", metavar="S", help="compare these look-aheads to the whole recording"
    )
    p.add_argument("--json", action="store_true", help="print the figures as one line of JSON, last")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = parser().parse_args(argv)

    def job() -> None:
        samples = load_audio(given.audio)
        if given.compare:
            for lookahead in given.compare:
                print(json.dumps(compare(samples, lookahead)), flush=True)
            return
        if given.face is None:
            raise UsageError("--face is missing")
        lipsync = LipSync.load()
        begin = time.monotonic()
        avatar = lipsync.avatar(given.face)
        print(f"prepared {len(avatar)} frames of {avatar.size[0]}x{avatar.size[1]} in {time.monotonic() - begin:.1f} s")
        figures = measure_all(lipsync, avatar, samples, given.seconds, given.sessions, given.lookahead)
        figures |= {"width": avatar.size[0], "height": avatar.size[1], "fps": float(avatar.fps)}
        avatar.close()
        if given.json:
            print(json.dumps(figures), flush=True)
        else:
            print("\n".join(f"{name:20} {value}" for name, value in figures.items()))

    return run_command("benchmarks.live", job)


if __name__ == "__main__":
    sys.exit(main())
