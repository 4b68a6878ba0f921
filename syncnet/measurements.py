"""AV offsets of a dataset's clips, measured by a sync expert and cached on disk."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from preprocessing.dataset.clips import Clip
from preprocessing.dataset.manifest import ClipRow
from preprocessing.errors import UsageError
from syncnet.offset import SyncScore
from syncnet.scoring.clip_scoring import score_clip
from syncnet.sync_expert import SyncExpert

NAME = "offsets.jsonl"  # one line per measurement: expert, clip and score


@dataclass(frozen=True)
class OffsetTask:
    """A clip to measure.

    Attributes:
        clip: path relative to the folder of clips.
        sound: SHA-256 of its audio samples.
        repaired: the offset, in frames, removed before measuring.
        listed: its manifest entry, see `Clip`.
    """

    clip: str
    sound: str
    repaired: int = 0
    listed: tuple[str, int, int] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, row: ClipRow, repaired: int = 0) -> OffsetTask:
        """The task for a row of the manifest."""
        return cls(row.clip, row.audio_sha256, repaired, (row.speaker, row.frames, row.size))


class OffsetMeasurements:
    """One expert's scores for the clips of a folder. Results of earlier runs, even interrupted ones, are reused."""

    def __init__(self, clips: Path, expert: Path, workers: int = 0) -> None:
        """Reads the cached measurements.

        Args:
            clips: the folder of clips.
            expert: the expert's checkpoint.
            workers: worker processes; 0: measure in this process.

        Raises:
            UsageError: the expert cannot be loaded, or workers is negative.
        """
        if workers < 0:
            raise UsageError(f"workers must be 0 or more, not {workers}")
        _load_expert(expert)
        self.clips, self.expert, self.workers = clips, expert, workers
        self.digest = hashlib.sha256(expert.read_bytes()).hexdigest()
        self._path = clips / NAME
        self._cache = dict(self._read()) if self._path.exists() else {}

    def scores(self, tasks: Sequence[OffsetTask], unit: str) -> dict[OffsetTask, SyncScore]:
        """The score of each task, measured unless cached; the progress bar counts in `unit`.

        Raises:
            UsageError: a clip is damaged, or its crops are not of the kind the expert needs.
            OSError: the cache cannot be written.
        """
        todo = [task for task in tasks if task not in self._cache]
        with (
            self._path.open("a", encoding="ascii") as file, closing(self._measure(todo)) as measured,
            tqdm(total=len(tasks), initial=len(tasks) - len(todo), unit=unit, disable=None) as bar,
        ):  # fmt: skip
            if file.tell():
                file.write("\n")  # a killed run may have left a partial line
            for task, score in zip(todo, measured, strict=True):
                key = {"expert": self.digest, "clip": task.clip, "sound": task.sound, "repaired": task.repaired}
                file.write(json.dumps(key | asdict(score)) + "\n")
                file.flush()
                self._cache[task] = score
                bar.update()
        return {task: self._cache[task] for task in tasks}

    def _read(self) -> Iterator[tuple[OffsetTask, SyncScore]]:
        """The cached measurements by this expert; malformed lines are skipped."""
        with self._path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                try:
                    values = json.loads(line)
                    if values.pop("expert") == self.digest:
                        task = OffsetTask(*(values.pop(name) for name in ("clip", "sound", "repaired")))
                        yield task, SyncScore(**values)
                except (ValueError, TypeError, AttributeError, KeyError):
                    continue

    def _measure(self, tasks: Sequence[OffsetTask]) -> Generator[SyncScore, None, None]:
        """The tasks' scores, in order."""
        work = partial(measure, clips=self.clips, expert=self.expert)
        if not self.workers:
            yield from map(work, tasks)
        elif tasks:
            pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _init_worker)
            try:
                yield from pool.map(work, tasks, chunksize=4)
            finally:
                pool.shutdown(cancel_futures=True)


def measure(task: OffsetTask, clips: Path, expert: Path) -> SyncScore:
    """Measures the AV offset of one clip in the folder `clips`, over the windows with speech.

    Raises:
        UsageError: the clip is damaged, or its crops are not of the kind the expert needs.
    """
    clip = Clip(clips / task.clip, listed=task.listed, offset=task.repaired)
    clip.require_kind("points")
    return score_clip(_load_expert(expert), clip).score


@lru_cache(maxsize=1)
def _load_expert(expert: Path) -> SyncExpert:
    return SyncExpert.load(expert)


def _init_worker() -> None:
    """Leaves Ctrl-C to the parent process and limits the worker to one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
