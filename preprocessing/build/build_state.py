"""Per-video build records, CLIPS/state/<video id>.json, by which a second run skips finished videos."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import VideoOutcome
from preprocessing.dataset.manifest import ClipRow
from preprocessing.errors import UsageError, display_path
from preprocessing.folder_lock import lock_folder

VERSION = 1
STATE, CLIPS = "state", "clips"  # subfolders of CLIPS
# A finished or partial clip; nothing else in that folder is ever deleted.
CLIP_NAME = re.compile(r"\.?.+__[a-z]+\d{4,}\.safetensors")
ROW_FIELDS = {item.name for item in fields(ClipRow)}
UNFINISHED = (".manifest.csv.", ".videos.csv.", ".unfinished-")  # partially written tables and records


@dataclass
class VideoRecord:
    """One state file.

    Attributes:
        video, size, mtime_ns: the source file; size is -1 if it could not be read.
        labels: the labels stored in the video's clips.
        recipe: `ClipRecipe.digest` of the recipe.
        outcome: the outcome of the video.
        files: size in bytes of every clip file, by path relative to CLIPS.
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
        """The record of a video before processing: "failed" until it is finished."""
        try:
            status = source.path.stat()
            size, mtime_ns = status.st_size, status.st_mtime_ns
        except OSError:  # processing will report the error
            size, mtime_ns = -1, 0
        labels = {"speaker": source.speaker, "language": source.language, "licence": source.licence}
        return cls(source.video, size, mtime_ns, labels, recipe, failure(source, "not finished"))

    def is_current(self, now: VideoRecord, clips: Path) -> bool:
        """Whether the video can be skipped: same file, labels and recipe, and all clips exist with the same size."""
        names = ("version", "video", "size", "mtime_ns", "labels", "recipe")
        same = all(getattr(self, name) == getattr(now, name) for name in names)
        return same and self.outcome.fate != "failed" and self.files == _sizes(clips, self.files)

    def finish(self, outcome: VideoOutcome, clips: Path) -> None:
        """Sets the outcome and records the sizes of its clip files."""
        self.outcome = outcome
        self.files = _sizes(clips, [row.clip for row in outcome.rows if row.clip])


def failure(source: VideoSource, reason: str) -> VideoOutcome:
    """The outcome of a video that will be retried."""
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
    """Writes the record of the video with id `name` atomically; raises OSError."""
    folder = clips / STATE
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as temporary:
        part = Path(temporary) / "part"
        part.write_text(json.dumps(asdict(record)), encoding="ascii")
        os.replace(part, folder / f"{name}.json")


def load_all(clips: Path) -> dict[str, VideoRecord]:
    """Every record by video id. Damaged files and files of another version count as absent.

    Raises:
        UsageError: a record's rows have unknown fields, so that it was written by another version of this program.
    """
    found = {path.stem: _load(path) for path in (clips / STATE).glob("*.json")}
    return {name: record for name, record in found.items() if record is not None}


def _load(path: Path) -> VideoRecord | None:
    try:
        values = json.loads(path.read_text(encoding="ascii"))
        outcome = values.pop("outcome")
        rows = outcome.pop("rows")
        unknown = sorted({name for row in rows for name in row} - ROW_FIELDS)
        if not unknown:
            made = VideoOutcome(rows=[ClipRow(**row) for row in rows], **outcome)
            record = VideoRecord(outcome=made, **values)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if unknown:
        raise UsageError(
            f"{display_path(path)} has unknown fields ({', '.join(unknown)}): it was written by another version; "
            "build into a new folder"
        )
    return record if record.version == VERSION else None


def remove_leftovers(clips: Path, records: Iterable[VideoRecord]) -> None:
    """Deletes the leftovers of a killed run: partial files, and clips without a record."""
    named = {name for record in records for name in record.files}
    for path in clips.glob(f"{CLIPS}/*/*"):
        if CLIP_NAME.match(path.name) and path.relative_to(clips).as_posix() not in named:
            _delete(path)
    for path in (*clips.glob(".*"), *clips.glob(f"{STATE}/.*")):
        if path.name.startswith(UNFINISHED):
            _delete(path)


def remove_replaced(clips: Path, old: VideoRecord | None, new: VideoRecord) -> None:
    """Deletes clips named in a video's old record but not in its new one."""
    for name in set(old.files if old else ()) - set(new.files):
        _delete(clips / name)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(clips: Path) -> Iterator[None]:
    """Creates CLIPS and its subfolders and locks it for this process.

    Raises:
        UsageError: CLIPS is not writable, is in use by another build, or holds imported clips.
    """
    if (clips / "manifest.csv").exists() and not (clips / STATE).is_dir():
        raise UsageError(f"{display_path(clips)} holds imported clips; choose a new folder")
    try:
        for folder in (clips / STATE, clips / CLIPS):
            folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(clips / STATE)
    except BlockingIOError:
        raise UsageError(f"another build is using {display_path(clips)}") from None
    except OSError as error:
        raise UsageError(f"{display_path(clips)} is not writable: {error.strerror}") from error
    with lock:
        yield
