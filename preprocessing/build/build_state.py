"""What became of each video, kept as CLIPS/state/<video id>.json, so that a second run does only what is left."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import VideoOutcome
from preprocessing.dataset.manifest import ClipRow
from preprocessing.errors import UsageError, display_path

VERSION = 1
STATE, CLIPS = "state", "clips"  # folders in CLIPS
# A clip, or what becomes one; nothing else in that folder is ever deleted.
CLIP_NAME = re.compile(r"\.?.+__[a-z]+\d{4,}\.safetensors")
UNFINISHED = (".manifest.csv.", ".videos.csv.", ".unfinished-")  # tables and records while they are being written


@dataclass
class VideoRecord:
    """One state file.

    Attributes:
        video, size, mtime_ns: the file that was read; size is -1 where it could not be asked.
        labels: what of the video's labels is written into its clips.
        recipe: `Recipe.digest` of what was asked for.
        outcome: what came of it.
        files: bytes of every clip's file, by its path below CLIPS.
    """

    video: str
    size: int
    mtime_ns: int
    labels: dict[str, str]
    recipe: str
    outcome: VideoOutcome
    files: dict[str, int] = field(default_factory=dict)
    version: int = VERSION

    @classmethod
    def begin(cls, source: VideoSource, recipe: str) -> VideoRecord:
        """The record of a video as it is now, before work begins: failed until it is finished."""
        try:
            status = source.path.stat()
            size, mtime_ns = status.st_size, status.st_mtime_ns
        except OSError:  # the work itself says what is wrong
            size, mtime_ns = -1, 0
        labels = {"speaker": source.speaker, "language": source.language, "licence": source.licence}
        return cls(source.video, size, mtime_ns, labels, recipe, failure(source, "not finished"))

    def is_current(self, now: VideoRecord, clips: Path) -> bool:
        """Whether nothing need be done: same file, labels and recipe, and every clip is there with all its bytes."""
        names = ("version", "video", "size", "mtime_ns", "labels", "recipe")
        same = all(getattr(self, name) == getattr(now, name) for name in names)
        return same and self.outcome.fate != "failed" and self.files == _sizes(clips, self.files)

    def finish(self, outcome: VideoOutcome, clips: Path) -> None:
        """Sets the outcome and notes the sizes of the files that it names."""
        self.outcome = outcome
        self.files = _sizes(clips, [row.clip for row in outcome.rows if row.clip])


def failure(source: VideoSource, reason: str) -> VideoOutcome:
    """The outcome of a video that is to be tried again."""
    return VideoOutcome(source.video, "failed", reason, 0.0, [], {})


def _sizes(clips: Path, names: Iterable[str]) -> dict[str, int]:
    sizes = {}
    for name in names:
        try:
            sizes[name] = (clips / name).stat().st_size
        except OSError:
            sizes[name] = -1
    return sizes


def save(clips: Path, name: str, record: VideoRecord) -> None:
    """Writes the record of the video with the id `name`, beside its name first; OSError passes through."""
    folder = clips / STATE
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as place:
        part = Path(place) / "part"
        part.write_text(json.dumps(asdict(record)), encoding="ascii")
        os.replace(part, folder / f"{name}.json")


def load_all(clips: Path) -> dict[str, VideoRecord]:
    """Every record by the video's id. A file that is damaged or of another version counts as absent."""
    found = {path.stem: _load(path) for path in (clips / STATE).glob("*.json")}
    return {name: record for name, record in found.items() if record is not None}


def _load(path: Path) -> VideoRecord | None:
    try:
        values = json.loads(path.read_text(encoding="ascii"))
        outcome = values.pop("outcome")
        rows = [ClipRow(**row) for row in outcome.pop("rows")]
        record = VideoRecord(outcome=VideoOutcome(rows=rows, **outcome), **values)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if record.version == VERSION else None


def remove_leftovers(clips: Path, records: Iterable[VideoRecord]) -> None:
    """Deletes what a killed run has left: files half written, and clips that no record names."""
    named = {name for record in records for name in record.files}
    for path in clips.glob(f"{CLIPS}/*/*"):
        if CLIP_NAME.match(path.name) and path.relative_to(clips).as_posix() not in named:
            _delete(path)
    for path in (*clips.glob(".*"), *clips.glob(f"{STATE}/.*")):
        if path.name.startswith(UNFINISHED):
            _delete(path)


def remove_replaced(clips: Path, old: VideoRecord | None, new: VideoRecord) -> None:
    """Deletes the clips of a video's earlier record that its new one does not name."""
    for name in set(old.files if old else ()) - set(new.files):
        _delete(clips / name)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(clips: Path) -> Iterator[None]:
    """CLIPS with its folders, for this process alone.

    Raises:
        UsageError: it cannot be made or written to, another build is at work in it, or it holds imported clips.
    """
    if (clips / "manifest.csv").exists() and not (clips / STATE).is_dir():
        raise UsageError(f"{display_path(clips)} holds clips of another origin; name a new folder")
    try:
        for folder in (clips / STATE, clips / CLIPS):
            folder.mkdir(parents=True, exist_ok=True)
        file = (clips / STATE / "lock").open("w")
    except OSError as error:
        raise UsageError(f"{display_path(clips)} cannot be written to: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another build is at work in {display_path(clips)}") from None
        except OSError:
            pass  # a file system without locks
        yield
