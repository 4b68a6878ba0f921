"""Videos to workers: one Dask task a video, on this machine's cores or on a cluster that is already there."""

from __future__ import annotations

import logging
import re
import signal
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.build.sources import VideoSource
from preprocessing.errors import UsageError, Wav2LipError, display_path

if TYPE_CHECKING:
    from distributed import Client, Future

    from preprocessing.build.video_pipeline import ClipRecipe, VideoOutcome

INSTALL = "pip install -r requirements-train.txt"
MAX_WORKER_DEATHS = 3  # workers that one video may kill before it is given up
SCHEDULER_TIMEOUT, WORKER_TIMEOUT = 10, 60  # seconds in which a scheduler has to answer, and its first worker has to show up


class ClusterError(Wav2LipError, RuntimeError):
    """The scheduler went away in the middle of the job."""


@dataclass(frozen=True)
class WorkerFailure:
    """A video whose task came to no end of its own: it raised, or took its workers with it."""

    reason: str


def process_on_worker(source: VideoSource, clips: Path, recipe: ClipRecipe) -> VideoOutcome:
    """The task: `make_clips` with one thread and, where there are several GPUs, with this worker's own."""
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
    """One of `count` GPUs for a worker: by the number that its name is or ends with, the first where there is none."""
    number = re.search(r"\d+$", str(name))
    return f"cuda:{int(number[0]) % max(count, 1) if number else 0}"


def choose_detector(recipe: ClipRecipe) -> str:
    """What the detector "auto" comes down to on this machine. ValueError when its file or its device is not there."""
    import torch

    from preprocessing.faces.detectors import load_detector

    if not re.fullmatch(r"cpu|cuda(:\d+)?", recipe.device):
        raise UsageError(f"device must be cpu, cuda or cuda:N, not {recipe.device!r}")
    if recipe.detector == "sfd" and recipe.device != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"the device {recipe.device} is not there: take cpu")
    detector = load_detector(recipe.detector, yunet=recipe.yunet, sfd=recipe.sfd)  # on the CPU: only to see that it is
    return type(detector).__name__.lower() if recipe.detector == "auto" else recipe.detector


@contextmanager
def connect(workers: int, scheduler: str | None, clips: Path) -> Iterator[Client]:
    """A client of `scheduler` ("tcp://host:port"), or of `workers` processes started here and ended afterwards.

    Raises:
        UsageError: Dask is not installed, no scheduler or worker answers, or they lack this code or the folder `clips`.
    """
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise UsageError(f"making clips needs Dask: {INSTALL}") from None
    for handler in logging.getLogger("distributed").handlers:  # its loggers have levels of their own
        handler.setLevel(logging.CRITICAL)  # what goes wrong is told by video, in one line
    with ExitStack() as stack:
        if scheduler is not None:
            yield _join(scheduler, clips, stack)
            return
        with _defer_signals():
            client = _start(workers, stack)
        try:
            yield client
        finally:
            with _defer_signals():
                stack.close()


def _start(workers: int, stack: ExitStack) -> Client:
    """Worker processes of one thread each, reachable from this machine alone."""
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": MAX_WORKER_DEATHS - 1,
        # Dask gives a worker up for good that is down 15 s after it was killed, be it by another kill since then.
        "distributed.deploy.lost-worker-timeout": "1000 days",
    }
    stack.enter_context(dask.config.set(settings))
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="clips-", ignore_cleanup_errors=True))
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", memory_limit=0,
        local_directory=folder, silence_logs=logging.CRITICAL,
        # No dashboard; but for its own health page Dask would still take port 8787, and complain when that is taken.
        dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
    )  # fmt: skip
    return stack.enter_context(Client(stack.enter_context(cluster)))


@contextmanager
def _defer_signals() -> Iterator[None]:
    """Ctrl-C and a request to terminate wait until the block has ended, and never reach the processes that it starts.

    Ctrl-C reaches the whole process group, but these inherit that it is blocked: the job ends them, in good order.
    """
    asked: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, lambda number, _: asked.append(number))
    resource_tracker.ensure_running()  # would lift the block when started within it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt


def _join(scheduler: str, clips: Path, stack: ExitStack) -> Client:
    from distributed import Client

    try:
        client = stack.enter_context(Client(scheduler, timeout=SCHEDULER_TIMEOUT))
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler} (tcp://host:port)") from error
    try:
        client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
    except TimeoutError:
        raise UsageError(f"no worker has joined {scheduler} within {WORKER_TIMEOUT} s") from None
    try:
        seen = client.submit(_folder_exists, clips, pure=False).result(timeout=WORKER_TIMEOUT)
    except (ImportError, RuntimeError, TimeoutError) as error:  # told by a scheduler; a worker may just end
        raise UsageError(f"{scheduler} and its workers do not find this code: start them in its folder") from error
    if not seen:
        raise UsageError(f"the workers of {scheduler} do not see {display_path(clips)}: a shared file system is needed")
    return client


def _folder_exists(folder: Path) -> bool:
    return folder.is_dir()


def process_all(
    client: Client, sources: Iterable[VideoSource], clips: Path, recipe: ClipRecipe
) -> Iterator[tuple[VideoSource, VideoOutcome | WorkerFailure]]:  # fmt: skip
    """Every video with what became of it, in the order in which they are done.

    A worker gets its next video when it has done the last: the scheduler's memory stays small however many there are,
    and when a worker dies only the video it was at is to blame. Leaving the loop early cancels what is under way.

    Raises:
        ClusterError: the scheduler is gone.
    """
    from distributed import as_completed

    waiting, owners, done = iter(sources), dict[Any, VideoSource](), as_completed()
    task = partial(process_on_worker, clips=clips, recipe=recipe)

    def submit() -> None:
        idle = max(1, sum(client.nthreads().values())) - len(owners)
        for source in islice(waiting, max(0, idle)):
            future = client.submit(task, source, pure=False)
            owners[future.key] = source
            done.add(future)

    try:
        submit()
        for future in done:
            source = owners.pop(future.key)
            yield source, _result(future)
            submit()
    finally:
        client.cancel([*done.futures], force=True)


def _result(future: Future) -> VideoOutcome | WorkerFailure:
    from distributed import KilledWorker

    if future.status not in ("finished", "error"):
        raise ClusterError("the scheduler is gone, or has dropped the job")
    error = future.exception() if future.status == "error" else None
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        return WorkerFailure(f"its worker was killed {error.allowed_failures + 1} times: too little memory, or a crash")
    place = traceback.extract_tb(future.traceback())[-1:]
    where = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in place)
    return WorkerFailure(" ".join(f"{type(error).__name__}: {error}{where}".split()))
