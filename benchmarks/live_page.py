"""How far picture and sound of the live page are apart in Chromium, second by second from the start.

    .venv/bin/python benchmarks/live_page.py [--runs 3] [--seconds 10]

A stand-in for a person turns white whenever a tone sounds, once a second. Each run opens the page anew and records what
it receives with the browser's MediaRecorder; what is printed are milliseconds from tone to flash, below 0 where the
picture comes first. Needs Chromium (`tests/browser.sh`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.commands import Parser, run_command  # noqa: E402

FRAME = 40  # milliseconds


def measure(runs: int, seconds: float) -> list[np.ndarray]:
    """Milliseconds by which each flash follows its tone, by run."""
    from playwright.sync_api import sync_playwright

    from tests.inference.web.conftest import server
    from tests.inference.web.test_live_page import BROWSER, begin, free, offsets, recorded, until
    from tests.material import write_photo

    flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    found = []
    with tempfile.TemporaryDirectory(prefix="live-page-") as name, sync_playwright() as playwright:
        folder = Path(name)
        (folder / "people").mkdir()
        write_photo(folder / "people" / "flash.png")
        people = ("--avatars", str(folder / "people"), "--detector", "haar", "--max-live", "1")
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        with server(folder, *people, stub="stub_live") as served:
            for number in range(runs):
                page = browser.new_page()
                begin(page, f"{served.url}/live", "flash.png")
                found.append(1000 * np.array(offsets(*recorded(page, folder / "seen.webm", seconds))))
                page.close()
                until(lambda: free(served) == 1)
                print(f"run {number + 1}, load {os.getloadavg()[0]:.1f}:", *np.rint(found[-1]).astype(int), flush=True)
        browser.close()
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser("benchmarks.live_page", __doc__)
    p.add_argument("--runs", type=int, default=3, help="times the page is opened (default: %(default)s)")
    p.add_argument("--seconds", type=float, default=10.0, help="recorded each time (default: %(default)g)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = parser().parse_args(argv)

    def job() -> None:
        found = measure(given.runs, given.seconds)
        for label, part in (
            ("first three seconds", [run[:3] for run in found]),
            ("after them", [r[3:] for r in found]),
        ):
            every = np.concatenate(part)
            if len(every):
                inside = int((np.abs(every) <= FRAME).sum())
                print(f"{label}: {every.min():.0f} to {every.max():.0f} ms, median {np.median(every):.0f}, "
                      f"{inside} of {len(every)} within a frame")  # fmt: skip

    return run_command("benchmarks.live_page", job)


if __name__ == "__main__":
    sys.exit(main())
