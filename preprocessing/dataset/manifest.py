"""The CSV tables of a clip folder: one row per clip with its measures, one row per video with its outcome."""

from __future__ import annotations

import csv
import math
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from preprocessing.errors import UsageError, display_path

# File names that are not UTF-8 reach Python as lone surrogates. They are written as \udcff, so that any program can
# read the table, and survive the round trip; a name that really holds such characters gets its backslash as \x5c.
LONE_SURROGATE = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")


@dataclass
class ClipRow:
    """One clip, kept or rejected. Measures that were not taken are NaN.

    Attributes:
        clip: path relative to the clip folder, "" if no clip was written.
        video: path relative to the video folder.
        person: index of the person in the video, from 0.
        number: index of the clip among those of this person in this video.
        start: time of the first frame in the video, in seconds.
        seconds: duration; frames: the same in frames.
        size: side of the stored square in pixels, 0 if no clip was written.
        side: median side of the face in video pixels.
        sharpness, yaw, roll, missing, occluded: video measures, see `preprocessing.dataset.quality_filters`.
        speech, level, clipped: audio measures, see there; audio_sha256: hash of the samples.
        reason: "" if the clip passed, otherwise the failed quality filters, joined by "+".
        offset, confidence: AV offset in frames (positive: the audio is early) and its confidence as measured by the
            sync expert, None if not measured.
        sync_filter: verdict of the sync filter: "" if it has not run, "pass", or why the clip is dropped.
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
        """Whether the clip is used for training: no quality filter failed and the sync filter did not drop it."""
        return self.reason == "" and self.sync_filter in ("", "pass")

    @property
    def shift(self) -> int:
        """The offset, in whole frames, corrected when the clip is read; 0 unless the sync filter passed the clip."""
        return round(self.offset) if self.sync_filter == "pass" and self.offset is not None else 0

    @property
    def usable_frames(self) -> int:
        """Number of frames left after the offset correction."""
        return self.frames - abs(self.shift)


@dataclass
class VideoRow:
    """One video.

    Attributes:
        video: path relative to the video folder.
        fate: "made"; "rejected": readable, but no clip passes; "broken": unreadable; "failed": to be retried.
        reason: one line, "" if made.
        seconds: duration; clips: number of clips that pass; clip_seconds: their total duration; work_seconds:
            processing time.
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
        raise UsageError(f"{text!r} is neither a finite number nor empty")
    return number


def _escaped(value: Any) -> Any:
    return LONE_SURROGATE.sub(r"\\x5cu\1", value) if isinstance(value, str) else value


def _unescaped(text: str) -> str:
    names = LONE_SURROGATE.sub(lambda found: chr(int(found[1], 16)), text)
    return re.sub(r"\\x5c(u(d[89a-f][0-9a-f]{2}))", r"\\\1", names)


_READ = {"str": _unescaped, "int": int, "float": float, "float | None": _optional}


def write_rows(path: Path, rows: Sequence[ClipRow] | Sequence[VideoRow]) -> None:
    """Writes rows of one type atomically as CSV (UTF-8, comma-separated, one header line).

    Any text survives the round trip. Without rows, the header is that of `ClipRow`.
    """
    names = [field.name for field in fields(rows[0] if rows else ClipRow)]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "rows.part"
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            # "\r\n" as in RFC 4180: the csv module then quotes fields that contain either character.
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(names)
            writer.writerows([_escaped(value) for value in attrgetter(*names)(row)] for row in rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def read_manifest(path: Path) -> list[ClipRow]:
    """Reads the rows of a clip table; unknown columns are ignored.

    Raises:
        UsageError: the file is missing, is not such a table, or lacks a column.
    """
    return _read(path, ClipRow)


def read_videos(path: Path) -> list[VideoRow]:
    """Reads the rows of a video table; see `read_manifest`."""
    return _read(path, VideoRow)


def _read(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
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
    """Copies offset, confidence and sync_filter from the old row of each clip whose audio is unchanged."""
    known = {(row.clip, row.audio_sha256): row for row in old if row.clip}
    for row in new:
        if (before := known.get((row.clip, row.audio_sha256))) is not None:
            row.offset, row.confidence, row.sync_filter = before.offset, before.confidence, before.sync_filter
