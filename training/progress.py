"""Progress bars."""

from __future__ import annotations

from tqdm import tqdm


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
