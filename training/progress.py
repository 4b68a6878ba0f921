"""Progress on a terminal."""

from __future__ import annotations

from tqdm import tqdm


class ProgressBars:
    """A bar with the time left for each kind of work in turn, on a terminal only; a context that clears them away."""

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
        """So many of what the unit names are done; another unit begins a new bar."""
        if self._bar is None or unit != self._unit:
            self.__exit__()
            self._unit, self._bar = unit, tqdm(unit=unit, disable=self._disable, leave=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
