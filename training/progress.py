"""Progress bars."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


FIRST_STEPS, REPORT_EVERY = 3, 30.0  # each of the first steps is reported, then one in so many seconds


def training_steps(items: Iterable[Item], first: int, last: int, shown: bool = True) -> Iterator[Item]:
    """Yields one item for each of the steps after `first` up to `last`, and reports the progress on standard error.

    A terminal shows a bar; elsewhere each of the first steps makes a line, then one step every REPORT_EVERY seconds.

    Args:
        shown: False for all but one of several processes.
    """
    if not shown or sys.stderr.isatty():
        bar = tqdm(items, total=last, initial=first, unit="step", disable=not shown)
        yield from bar
        return
    begun = reported = time.monotonic()
    for step, item in enumerate(items, first + 1):
        yield item
        now = time.monotonic()
        if step - first <= FIRST_STEPS or now - reported >= REPORT_EVERY or step == last:
            pace = (now - begun) / (step - first)
            left = timedelta(seconds=round(pace * (last - step)))
            print(f"step {step} of {last}, {pace:.2f} s a step, {left} left", file=sys.stderr, flush=True)
            reported = now


class ProgressBars:
    """Progress bars with the remaining time, one per unit of work, shown only on a terminal.

    A context manager that clears the bar on exit.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._disable = quiet or None  # tqdm's None: only on a terminal
        self._bar: tqdm | None = None
        self._unit = ""

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, unit: str, done: int, total: int) -> None:
        """Updates the bar to `done` of `total`; a new unit starts a new bar."""
        if self._bar is None or unit != self._unit:
            self.__exit__()
            self._unit, self._bar = unit, tqdm(unit=unit, disable=self._disable, leave=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
