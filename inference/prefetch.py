"""Pipeline stages: an iterator that prefetches in its own thread, and a clock for the time spent per stage."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Given_co = TypeVar("Given_co", covariant=True)
_END = object()


class ClosableIterator(Iterator[Given_co], Protocol[Given_co]):
    """An iterator that holds resources until `close`."""

    def close(self) -> None: ...


class _Plain(Iterator[Item]):
    """Iterates in the consumer's thread."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)

    def __next__(self) -> Item:
        return next(self._items)

    def close(self) -> None:
        if hasattr(self._items, "close"):
            self._items.close()


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
    """Busy time of each stage, in seconds, without that of stages within it.

    Stages in different threads overlap. With `profile`, CPU seconds are measured in addition; that is exact only if the
    job runs in one thread, so `Prefetcher`s should not be used (see `prefetched`).
    """

    def __init__(self, profile: bool = False) -> None:
        self.profile = profile
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._local = threading.local()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        stack: list[str] = self._local.__dict__.setdefault("stack", [])
        self._switch(stack)
        stack.append(stage)
        try:
            yield
        finally:
            self._switch(stack)
            stack.pop()

    def _switch(self, stack: list[str]) -> None:
        """Adds the time since the last switch in this thread to the stage that was running."""
        wall, cpu = time.perf_counter(), time.process_time() if self.profile else 0.0
        if stack:
            before = self._local.since
            self.seconds[stack[-1]] += wall - before[0]
            if self.profile:
                self.cpu[stack[-1]] += cpu - before[1]
        self._local.since = wall, cpu

    def timed(self, stage: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, with its time added to `stage`."""

        def run(*args: object, **options: object) -> Result:
            with self(stage):
                return function(*args, **options)

        return run

    def prefetched(self, items: Iterable[Item], depth: int) -> ClosableIterator[Item]:
        """The items from a thread of their own, `depth` ahead; when profiling, from this thread."""
        return Prefetcher(items, depth) if not self.profile else _Plain(items)

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
