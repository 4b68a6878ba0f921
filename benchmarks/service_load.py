"""Load test of the web service on the loopback address: clients, jobs, and workers that are killed.

    .venv/bin/python benchmarks/service_load.py --clients 8 --jobs 40 --kills 2

Starts the service with the default engine in a temporary folder, sends short jobs from several clients at once, kills
the worker process in between, and reports whether every job ended once, and how the memory went. It stops by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.material import moving_photo, write_speech, write_video  # noqa: E402

LIMIT = 1500.0  # seconds for everything


class Load:
    """One run: the service, its clients, and what they saw."""

    def __init__(self, folder: Path, clients: int, jobs: int, kills: int) -> None:
        self.folder, self.clients, self.kills = folder, clients, kills
        self.todo = list(range(jobs))
        self.seen: dict[str, list[str]] = {}  # id: the final states that its event streams told
        self.seconds: list[float] = []
        self.memory: list[dict[str, float]] = []
        self.killed: list[str] = []
        self.lock = threading.Lock()
        self.deadline = time.monotonic() + LIMIT
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inference.web", "--port", "0", "--data", str(folder / "data")],
            stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[2]
        self.face = write_video(folder / "face.mp4", moving_photo(10)).read_bytes()
        self.audio = write_speech(folder / "speech.wav", 0.4).read_bytes()

    def run(self) -> None:
        """Sends all jobs, kills workers, and waits until every job has ended or the time is over."""
        threads = [threading.Thread(target=self._client) for _ in range(self.clients)]
        for thread in (*threads, killer := threading.Thread(target=self._killer)):
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._measure()
            time.sleep(1)
        killer.join()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def _client(self) -> None:
        with httpx2.Client(base_url=f"{self.url}/api", timeout=300) as api:
            while time.monotonic() < self.deadline:
                with self.lock:
                    if not self.todo:
                        return
                    self.todo.pop()
                self._job(api)

    def _job(self, api: httpx2.Client) -> None:
        begin = time.monotonic()
        files = {"face": ("face.mp4", self.face), "audio": ("speech.wav", self.audio)}
        reply = api.post("/jobs", files=files, data={"options": "{}"})
        reply.raise_for_status()
        job_id = reply.json()["id"]
        with self.lock:
            self.seen[job_id] = []
        with api.stream("GET", f"/jobs/{job_id}/events") as events:
            for line in events.iter_lines():
                if line.startswith("data: ") and (state := json.loads(line[6:])["state"]) in (
                    "done",
                    "failed",
                    "cancelled",
                ):
                    self.seen[job_id].append(state)
        self.seconds.append(time.monotonic() - begin)
        assert api.get(f"/jobs/{job_id}/result").headers["content-type"] == "video/mp4"

    def _killer(self) -> None:
        """Kills the worker in the middle of a job, each time after another share of the jobs has ended."""
        total = len(self.todo)
        for number in range(1, self.kills + 1):
            while time.monotonic() < self.deadline:
                running = self._rows("SELECT id FROM jobs WHERE state = 'running' AND stage IS NOT NULL")
                if running and len(self.seconds) >= total * number // (self.kills + 1):
                    break
                time.sleep(0.02)
            for (pid,) in self._rows("SELECT pid FROM workers"):
                os.kill(pid, signal.SIGKILL)
                self.killed.append(running[0][0])

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "data/queue.sqlite3", timeout=20) as db:
            return db.execute(query).fetchall()

    def _measure(self) -> None:
        worker = self._rows("SELECT pid FROM workers")
        sample = {"ended": float(len(self.seconds)), "service": megabytes(self.process.pid)}
        self.memory.append(sample | ({"worker": megabytes(worker[0][0])} if worker else {}))

    def report(self) -> dict[str, Any]:
        """The figures."""
        rows = self._rows("SELECT state, attempts FROM jobs")
        states = {state: sum(row[0] == state for row in rows) for state in {row[0] for row in rows}}
        seconds = [round(statistics.median(self.seconds), 1), round(max(self.seconds), 1)]
        return {
            "jobs": len(rows), "states": states,
            "attempts": sum(row[1] for row in rows), "kills": len(self.killed),
            "final states told once": sum(len(states) == 1 for states in self.seen.values()),
            "seconds for a job, median and longest": seconds,
            "memory of the service, MB": self._course("service"), "memory of the worker, MB": self._course("worker"),
        }  # fmt: skip

    def _course(self, name: str) -> list[int]:
        """Largest memory in each quarter of the jobs."""
        total = max(sample["ended"] for sample in self.memory) or 1
        quarters: list[list[float]] = [[0.0] for _ in range(4)]
        for sample in self.memory:
            quarters[min(3, int(4 * sample["ended"] / total))].append(sample.get(name, 0.0))
        return [round(max(values)) for values in quarters]


def megabytes(pid: int) -> float:
    """Resident memory of a process, 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Runs the load test; fails unless every job is done and told of once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, most in (("clients", 8, 32), ("jobs", 40, 400), ("kills", 2, 20)):
        parser.add_argument(f"--{name}", type=int, default=default, choices=range(most + 1), metavar="N")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load = Load(Path(folder), flags.clients, flags.jobs, flags.kills)
        begin = time.monotonic()
        load.run()
        report = load.report() | {"seconds in all": round(time.monotonic() - begin, 1)}
    print(json.dumps(report, indent=2))
    good = report["states"] == {"done": flags.jobs} and report["final states told once"] == flags.jobs
    return 0 if good and report["attempts"] <= flags.jobs + flags.kills else 1


if __name__ == "__main__":
    sys.exit(main())
