"""Distributes work to Dask workers, one task per video or job, on local processes or an existing cluster."""

from __future__ import annotations

import logging
import re
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from preprocessing.build.sources import VideoSource
from preprocessing.errors import UsageError, Wav2LipError, display_path

if TYPE_CHECKING:
    from distributed import Client, Future

    from preprocessing.build.video_pipeline import ClipRecipe, VideoOutcome

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
INSTALL = "pip install -r requirements-train.txt"
MAX_WORKER_DEATHS = 3  # workers an item may kill before it is given up
SCHEDULER_TIMEOUT, WORKER_TIMEOUT = 10, 60  # seconds to wait for scheduler and first worker


class ClusterError(Wav2LipError, RuntimeError):
    """The connection to the scheduler was lost during the work."""


@dataclass(frozen=True)
class WorkerFailure:
    """An item whose task raised an exception or killed its workers."""

    reason: str


def process_on_worker(source: VideoSource, clips: Path, recipe: ClipRecipe) -> VideoOutcome:
    """The Dask task: runs `make_clips` with one thread on this worker's GPU, if any."""
    import cv2
    import torch
    from distributed import get_worker

    from preprocessing.build.video_pipeline import make_clips

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if recipe.device == "cuda":
        recipe = replace(recipe, device=worker_device(get_worker().name, torch.cuda.device_count()))
    return make_clips(source, clips, recipe)


def worker_device(name: object, count: int) -> str:
    """Assigns one of `count` GPUs by the number at the end of the worker's name; the first without a number."""
    number = re.search(r"\d+$", str(name))
    return f"cuda:{int(number[0]) % max(count, 1) if number else 0}"


def choose_detector(recipe: ClipRecipe) -> str:
    """Resolves the detector "auto" on this machine; UsageError if its file or device is missing."""
    import torch

    from preprocessing.faces.detectors import load_detector

    if not re.fullmatch(r"cpu|cuda(:\d+)?", recipe.device):
        raise UsageError(f"device must be cpu, cuda or cuda:N, not {recipe.device!r}")
    if recipe.detector == "sfd" and recipe.device != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"the device {recipe.device} is not available: use cpu")
    # On the CPU: only a check that it loads.
    detector = load_detector(recipe.detector, yunet=recipe.yunet, sfd=recipe.sfd)
    return type(detector).__name__.lower() if recipe.detector == "auto" else recipe.detector


@contextmanager
def connect(workers: int, scheduler: str | None, folder: Path) -> Iterator[Client]:
    """A client of `scheduler` ("tcp://host:port"), or of `workers` local processes that end with the context.

    Raises:
        UsageError: Dask is missing, no scheduler or worker responds, or they lack this code or the output `folder`.
    """
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise UsageError(f"several workers need Dask: {INSTALL}") from None
    for handler in logging.getLogger("distributed").handlers:  # its loggers set their own levels
        handler.setLevel(logging.CRITICAL)  # errors are reported per video, in one line
    with ExitStack() as stack:
        if scheduler is not None:
            yield _join(scheduler, folder, stack)
            return
        with _defer_signals():
            client = _start(workers, stack)
        try:
            yield client
        finally:
            with _defer_signals():
                stack.close()


def _start(workers: int, stack: ExitStack) -> Client:
    """Starts single-threaded worker processes that listen only on this machine."""
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": MAX_WORKER_DEATHS - 1,
        # By default, Dask permanently drops a worker that is down 15 s after a kill, even if it was killed again.
        "distributed.deploy.lost-worker-timeout": "1000 days",
    }
    stack.enter_context(dask.config.set(settings))
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="workers-", ignore_cleanup_errors=True))
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", memory_limit=0,
        local_directory=folder, silence_logs=logging.CRITICAL,
        # No dashboard. The health page still needs a port; 0 avoids conflicts on the default 8787.
        dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
    )  # fmt: skip
    return stack.enter_context(Client(stack.enter_context(cluster)))


@contextmanager
def _defer_signals() -> Iterator[None]:
    """Defers SIGINT and SIGTERM until the block ends and shields the processes started in it from SIGINT.

    Ctrl-C is sent to the whole process group, but child processes inherit the blocked signal mask, so the build can
    shut them down cleanly.
    """
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, lambda number, _: received.append(number))
    resource_tracker.ensure_running()  # it would unblock the signal if started inside the block
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def _join(scheduler: str, folder: Path, stack: ExitStack) -> Client:
    from distributed import Client

    try:
        client = stack.enter_context(Client(scheduler, timeout=SCHEDULER_TIMEOUT))
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler responds at {scheduler} (tcp://host:port)") from error
    try:
        client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
    except TimeoutError:
        raise UsageError(f"no worker joined {scheduler} within {WORKER_TIMEOUT} s") from None
    try:
        exists = client.submit(_folder_exists, folder, pure=False).result(timeout=WORKER_TIMEOUT)
    except (ImportError, RuntimeError, TimeoutError) as error:  # from the scheduler; a worker may simply exit
        raise UsageError(
            f"{scheduler} and its workers cannot import this code: start them in the repository folder"
        ) from error
    if not exists:
        raise UsageError(
            f"the workers of {scheduler} cannot access {display_path(folder)}: a shared file system is needed"
        )
    return client


def _folder_exists(folder: Path) -> bool:
    return folder.is_dir()


def process_all(
    client: Client, sources: Iterable[VideoSource], clips: Path, recipe: ClipRecipe
) -> Iterator[tuple[VideoSource, VideoOutcome | WorkerFailure]]:  # fmt: skip
    """Yields every video with its outcome, in order of completion; see `run_all`."""
    return run_all(client, sources, partial(process_on_worker, clips=clips, recipe=recipe))


def run_all(
    client: Client, items: Iterable[Item], task: Callable[[Item], Outcome]
) -> Iterator[tuple[Item, Outcome | WorkerFailure]]:  # fmt: skip
    """Yields every item with the outcome of its task, in order of completion.

    A worker gets its next item only after finishing the previous one, so the scheduler's memory stays small, and a
    worker's death is attributed to the item it was processing. Leaving the loop early cancels running tasks.

    Raises:
        ClusterError: the connection to the scheduler was lost.
    """
    from distributed import as_completed

    pending, owners, done = iter(items), dict[Any, Item](), as_completed()

    def submit() -> None:
        idle = max(1, sum(client.nthreads().values())) - len(owners)
        for item in islice(pending, max(0, idle)):
            future = client.submit(task, item, pure=False)
            owners[future.key] = item
            done.add(future)

    try:
        submit()
        for future in done:
            item = owners.pop(future.key)
            yield item, _result(future)
            submit()
    finally:
        client.cancel([*done.futures], force=True)


def _result(future: Future) -> Any:
    from distributed import KilledWorker

    if future.status not in ("finished", "error"):
        raise ClusterError("lost the scheduler, or it dropped the task")
    error = future.exception() if future.status == "error" else None
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        return WorkerFailure(f"its worker died {error.allowed_failures + 1} times: out of memory, or a crash")
    frames = traceback.extract_tb(future.traceback())[-1:]
    where = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in frames)
    return WorkerFailure(" ".join(f"{type(error).__name__}: {error}{where}".split()))
