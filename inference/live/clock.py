"""The clock of a live session; tests use one that they set."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds from any origin."""

    def now(self) -> float: ...

    def sleep_until(self, moment: float) -> None:
        """Returns at `moment`, or at once if that is over."""
        ...


class SystemClock:
    """The computer's monotonic clock."""

    def now(self) -> float:
        """Seconds since some moment in the past."""
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        """See `Clock.sleep_until`."""
        time.sleep(max(0.0, moment - self.now()))
