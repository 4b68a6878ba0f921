"""Pipeline stages: an iterator that prefetches in its own thread, and a clock for the time spent per stage."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


class Prefetcher(Iterator[Item]):
    """Iterates `items` in a thread, at most `depth` items ahead of the consumer.

    An exception in the thread is re-raised in place of the failed item. `close` stops the thread after its current
    item; if `items` is a generator, it is closed in that thread.
    """

    def __init__(self, items: Iterable[Item], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue = queue.Queue(max(1, depth))
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:
            self._error = error
        finally:
            if hasattr(self._items, "close"):
                self._items.close()
            self._put(_END)

    def _put(self, item: object) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Item:
        item = self._queue.get()
        if item is _END:
            self._queue.put(_END)  # for further calls
            if self._error is not None:
                raise self._error
            raise StopIteration
        return item

    def close(self) -> None:
        """Stops the thread and waits for it."""
        self._stop.set()
        self._thread.join()


class StageClock:
    """Busy time of each stage, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begin

    def iterate(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items and adds the time spent producing them to `stage`."""
        iterator = iter(items)
        try:
            while True:
                with self(stage):
                    item = next(iterator, _END)
                if item is _END:
                    return
                yield item  # type: ignore[misc]
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
