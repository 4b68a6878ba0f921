"""The tables beside the clips: one row a clip with all its measures, one row a video with its fate."""

from __future__ import annotations

import csv
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from preprocessing.errors import UsageError, display_path

# Names of files are bytes; those that are no UTF-8 reach Python as lone surrogates and must come back as the same.
ERRORS = "surrogatepass"


@dataclass
class ClipRow:
    """One clip, made or thrown away. Measures are NaN where they were not taken.

    Attributes:
        clip: path below the folder of clips, "" when nothing was written.
        video: path below the folder of videos.
        person: 0 for a video's first person, 1 for the next, ...
        number: counts the clips of this person in this video.
        start: seconds of the first frame in the video.
        seconds: length; frames: the same in frames.
        size: side of the stored square in pixels, 0 when nothing was written.
        side: median side of the face in pixels of the video.
        sharpness, yaw, roll, missing, occluded: of the picture, see `preprocessing.dataset.quality_filters`.
        speech, level, clipped: of the sound, see there; audio_sha256: of its samples.
        reason: "" when it passed; else the gates that failed, joined by "+".
        offset, confidence: AV offset in frames (positive: the sound comes early) and score by the sync expert, None
            where it was not asked.
        screen: "" before, then "pass" or why the clip is dropped.
    """

    clip: str
    video: str
    person: int
    number: int
    start: float
    seconds: float
    frames: int
    speaker: str
    split: str = ""
    language: str = ""
    licence: str = ""
    size: int = 0
    side: float = math.nan
    sharpness: float = math.nan
    yaw: float = math.nan
    roll: float = math.nan
    missing: float = math.nan
    occluded: float = math.nan
    speech: float = math.nan
    level: float = math.nan
    clipped: float = math.nan
    audio_sha256: str = ""
    reason: str = ""
    offset: float | None = None
    confidence: float | None = None
    sync_filter: str = ""

    @property
    def passes(self) -> bool:
        """Whether training reads it: no gate failed, and the expert has not dropped it."""
        return self.reason == "" and self.sync_filter in ("", "pass")

    @property
    def shift(self) -> int:
        """The offset, in whole frames, that is repaired when the clip is read; 0 unless the expert let it pass."""
        return round(self.offset) if self.sync_filter == "pass" and self.offset is not None else 0

    @property
    def usable_frames(self) -> int:
        """Frames that are left of the clip by the repair."""
        return self.frames - abs(self.shift)


@dataclass
class VideoRow:
    """One video.

    Attributes:
        video: path below the folder of videos.
        fate: "made"; "rejected": readable, but no clip passes; "broken": unreadable; "failed": to be tried again.
        reason: one line, "" when made.
        seconds: its length; clips: how many pass; clip_seconds: their length; work_seconds: spent on it.
    """

    video: str
    speaker: str
    split: str
    fate: str
    reason: str = ""
    seconds: float = 0.0
    clips: int = 0
    clip_seconds: float = 0.0
    work_seconds: float = 0.0


AnyRow = TypeVar("AnyRow", ClipRow, VideoRow)


def _optional(text: str) -> float | None:
    if not text:
        return None
    if not math.isfinite(number := float(text)):
        raise UsageError(f"{text!r} is neither a number nor empty")
    return number


_READ = {"str": str, "int": int, "float": float, "float | None": _optional}


def write_rows(path: Path, rows: Sequence[ClipRow] | Sequence[VideoRow]) -> None:
    """Writes rows of one kind as CSV (UTF-8, comma, one header line) beside the name and moves them there when whole.

    Any text survives. Without a row the header is the clips'.
    """
    names = [field.name for field in fields(rows[0] if rows else ClipRow)]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "rows.part"
        with part.open("w", encoding="utf-8", errors=ERRORS, newline="") as file:
            # "\r\n" as in RFC 4180: with it the module quotes a field that holds either.
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(names)
            writer.writerows(map(attrgetter(*names), rows))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def read_manifest(path: Path) -> list[ClipRow]:
    """The clips' rows; columns it does not know are ignored.

    Raises:
        UsageError: naming the file: it is missing, no such table, or lacks a column.
    """
    return _read(path, ClipRow)


def read_videos(path: Path) -> list[VideoRow]:
    """The videos' rows, as `read_manifest` reads the clips'."""
    return _read(path, VideoRow)


def _read(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    try:
        with path.open(encoding="utf-8-sig", errors=ERRORS, newline="") as file:
            return _parse(csv.reader(file, strict=True), kind)
    except OSError as error:
        raise UsageError(f"{display_path(path)} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{display_path(path)} is not a table of {kind.__name__} rows: {error}") from error


def _parse(lines: Any, kind: type[AnyRow]) -> list[AnyRow]:
    header: list[str] = next(lines, [])
    missing = [field.name for field in fields(kind) if field.name not in header]
    if missing:
        raise UsageError(f"it lacks the columns {', '.join(missing)}")
    columns = [(header.index(field.name), _READ[str(field.type)]) for field in fields(kind)]
    return [_row(line, lines.line_num, columns, kind) for line in lines if line]


def _row(line: list[str], number: int, columns: list, kind: type[AnyRow]) -> AnyRow:
    try:
        return kind(*[convert(line[index]) for index, convert in columns])
    except IndexError:
        raise UsageError(f"line {number} ends after {len(line)} columns") from None
    except ValueError as error:
        raise UsageError(f"line {number}: {error}") from error


def carry_sync_filter(new: Iterable[ClipRow], old: Iterable[ClipRow]) -> None:
    """Takes offset, confidence and screen over from the old row of a clip whose sound is the same."""
    known = {(row.clip, row.audio_sha256): row for row in old if row.clip}
    for row in new:
        if (before := known.get((row.clip, row.audio_sha256))) is not None:
            row.offset, row.confidence, row.sync_filter = before.offset, before.confidence, before.sync_filter
