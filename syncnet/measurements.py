"""What an expert finds in the clips of a data set, each remembered as soon as it is known."""

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
from syncnet.sync_expert import SyncExpert
from syncnet.validation import judge_clip

NAME = "offsets.jsonl"  # one line a measurement: of which expert, of what, and the score


@dataclass(frozen=True)
class OffsetTask:
    """A clip to be measured.

    Attributes:
        clip: path below the folder of clips; sound: SHA-256 of its samples.
        repaired: the offset that is taken out of it first.
        listed: what the manifest says of it, see `Clip`.
    """

    clip: str
    sound: str
    repaired: int = 0
    listed: tuple[str, int, int] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, row: ClipRow, repaired: int = 0) -> OffsetTask:
        """The task of a manifest's row."""
        return cls(row.clip, row.audio_sha256, repaired, (row.speaker, row.frames, row.size))


class OffsetMeasurements:
    """One expert's scores of a folder's clips. What an earlier run has measured, stopped or not, is not repeated."""

    def __init__(self, clips: Path, expert: Path, workers: int = 0) -> None:
        """Reads what is known already.

        Args:
            clips: the folder.
            expert: a checkpoint.
            workers: processes that measure; 0: this one.

        Raises:
            UsageError: the expert cannot be opened, or workers is negative.
        """
        if workers < 0:
            raise UsageError(f"workers must be 0 or more, not {workers}")
        _opened(expert)
        self.clips, self.expert, self.workers = clips, expert, workers
        self.digest = hashlib.sha256(expert.read_bytes()).hexdigest()
        self._path = clips / NAME
        self._known = dict(self._read()) if self._path.exists() else {}

    def scores(self, tasks: Sequence[OffsetTask], unit: str) -> dict[OffsetTask, SyncScore]:
        """All tasks' scores, measured where they are not known yet, with a progress bar that counts in `unit`.

        Raises:
            UsageError: a clip is damaged, or its crops are not of the expert's kind.
            OSError: what was measured cannot be written down.
        """
        todo = [task for task in tasks if task not in self._known]
        with (
            self._path.open("a", encoding="ascii") as file, closing(self._measured(todo)) as found,
            tqdm(total=len(tasks), initial=len(tasks) - len(todo), unit=unit, disable=None) as bar,
        ):  # fmt: skip
            if file.tell():
                file.write("\n")  # behind a line that a killed run may have left half
            for task, score in zip(todo, found, strict=True):
                key = {"expert": self.digest, "clip": task.clip, "sound": task.sound, "repaired": task.repaired}
                file.write(json.dumps(key | asdict(score)) + "\n")
                file.flush()
                self._known[task] = score
                bar.update()
        return {task: self._known[task] for task in tasks}

    def _read(self) -> Iterator[tuple[OffsetTask, SyncScore]]:
        """The file's measurements by this expert; a line that is not whole is left out."""
        with self._path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                try:
                    values = json.loads(line)
                    if values.pop("expert") == self.digest:
                        task = OffsetTask(*(values.pop(name) for name in ("clip", "sound", "repaired")))
                        yield task, SyncScore(**values)
                except (ValueError, TypeError, AttributeError, KeyError):
                    continue

    def _measured(self, tasks: Sequence[OffsetTask]) -> Generator[SyncScore, None, None]:
        """The tasks' scores in their order."""
        work = partial(measure, clips=self.clips, expert=self.expert)
        if not self.workers:
            yield from map(work, tasks)
        elif tasks:
            pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _settle)
            try:
                yield from pool.map(work, tasks, chunksize=4)
            finally:
                pool.shutdown(cancel_futures=True)


def measure(task: OffsetTask, clips: Path, expert: Path) -> SyncScore:
    """The offset of one clip below the folder `clips`, by the windows in which somebody speaks.

    Raises:
        UsageError: the clip is damaged, or not of the expert's kind of crop.
    """
    clip = Clip(clips / task.clip, listed=task.listed, offset=task.repaired)
    clip.require_kind("points")
    return judge_clip(_opened(expert), clip).score


@lru_cache(maxsize=1)
def _opened(expert: Path) -> SyncExpert:
    return SyncExpert.load(expert)


def _settle() -> None:
    """A worker leaves Ctrl-C to its parent and the other cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
