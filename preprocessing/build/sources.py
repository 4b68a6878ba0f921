"""Finds the source videos and their labels: id, speaker, split, language, licence."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from preprocessing.dataset.splits import SPLITS, TEST_SHARE, VAL_SHARE, assign_split
from preprocessing.errors import UsageError, display_path, require_at_least

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".asf", ".flv",
    ".3gp", ".ogv", ".mxf", ".vob", ".divx",
)  # fmt: skip
MAX_SLUG = 60  # characters of the file name used in the id; file systems allow 255 bytes per name


@dataclass(frozen=True)
class VideoSource:
    """One source video. `video`: path relative to the root, with slashes; `id`: its name in CLIPS."""

    path: Path
    video: str
    id: str
    speaker: str
    split: str
    language: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Labels:
    """Sources of the video labels.

    Attributes:
        speaker: How to determine the speaker. folder: the folder at speaker_level, or the file if there is none; name:
            the file name up to the first "__"; file: every file is a speaker; table: a column of the table.
        speaker_level: Level of the speaker folder; 1 is directly below VIDEOS.
        split: How to determine the split. hash: by a hash of the speaker's name; folder: the folder at split_level
            (train, val or test); table: a column of the table.
        split_level: Level of the split folder.
        val_share: Share of the speakers in the validation split with split=hash, 0 to 1.
        test_share: Share of the speakers in the test split with split=hash, 0 to 1.
        table: CSV file with a column "file" (paths relative to VIDEOS) and any of speaker, split, language, licence.
        root: Folder to which paths in a list file or table are relative (default: VIDEOS, or the folder of the list).
    """

    speaker: Literal["folder", "name", "file", "table"] = "folder"
    speaker_level: int = 1
    split: Literal["hash", "folder", "table"] = "hash"
    split_level: int = 1
    val_share: float = VAL_SHARE
    test_share: float = TEST_SHARE
    table: Path | None = None
    root: Path | None = None

    def __post_init__(self) -> None:
        require_at_least(self, speaker_level=1, split_level=1)
        if not (self.val_share >= 0 and self.test_share >= 0 and self.val_share + self.test_share <= 1):
            shares = f"{self.val_share} and {self.test_share}"
            raise UsageError(f"val_share and test_share must be 0 or more and add up to at most 1, not {shares}")
        if self.table is None and "table" in (self.speaker, self.split):
            raise UsageError("speaker or split is set to table, but no table is given")
        if self.speaker == self.split == "folder" and self.speaker_level == self.split_level:
            raise UsageError(f"speaker_level and split_level are both {self.split_level}: one folder cannot name both")


def find_sources(videos: Path, labels: Labels = Labels(), exclude: Path | None = None) -> list[VideoSource]:
    """Finds the videos in a folder, recursively, or in a list file with one path per line; sorted by path.

    Hidden files are skipped, and so is the folder `exclude`. Paths in a list may lack their suffix, and text after the
    first space is ignored unless a file has that name (as in the LRS2 lists).

    Raises:
        UsageError: folder, list or table cannot be read, a video has no label, or there are no videos.
    """
    is_folder = videos.is_dir()
    root = Path(os.path.abspath(labels.root or (videos if is_folder else videos.parent)))
    paths = _walk(Path(os.path.abspath(videos)), exclude) if is_folder else _read_list(videos, root)
    by_video = {_relative_to_root(path, root): path for path in paths}
    if not by_video:
        raise UsageError(f"{display_path(videos)} holds no videos ({', '.join(SUFFIXES)})")
    table = read_table(labels.table, labels) if labels.table else {}
    if labels.table and not table.keys() & by_video.keys():
        raise UsageError(
            f"{display_path(labels.table)} names none of the videos; its paths must be relative to {display_path(root)}"
        )
    ids = video_ids(by_video)
    return [_label(by_video[video], video, ids[video], labels, table) for video in sorted(by_video)]


def speakers_in_multiple_splits(sources: Iterable[VideoSource]) -> list[str]:
    """The speakers with videos in more than one split, sorted."""
    splits: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        splits[source.speaker].add(source.split)
    return sorted(speaker for speaker, found in splits.items() if len(found) > 1)


def video_ids(videos: Iterable[str]) -> dict[str, str]:
    """Id by path: the sanitized file name and 8 hex digits of the path's SHA-256 (16 if ids collide)."""
    ids = {video: _id(video, 8) for video in videos}
    counts = Counter(ids.values())
    return {video: name if counts[name] == 1 else _id(video, 16) for video, name in ids.items()}


def _id(video: str, digits: int) -> str:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(video).stem)[:MAX_SLUG].lstrip(".-") or "video"
    return f"{slug}-{_sha256(video)[:digits]}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _walk(folder: Path, exclude: Path | None) -> Iterator[Path]:
    """The videos in a folder, recursively; symbolic links are followed, but not in cycles."""
    skipped = {os.path.realpath(exclude)} if exclude else set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        skipped.add(os.path.realpath(parent))
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = sorted(set(folders) - set(hidden))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(parent, name)) not in skipped]
        for name in names:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(parent, name)


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{display_path(error.filename)} cannot be read: {error.strerror}") from error


def _read_list(file: Path, root: Path) -> list[Path]:
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except FileNotFoundError:
        raise UsageError(
            f"{display_path(file)} does not exist; expected a folder of videos or a list of paths"
        ) from None
    except OSError as error:
        raise UsageError(f"{display_path(file)} cannot be read: {error.strerror}") from error
    if any("\0" in line for line in lines):
        raise UsageError(f"{display_path(file)} is neither a folder nor a list with one path per line")
    return [_resolve_line(root, line.strip()) for line in lines if line.strip()]


def _resolve_line(root: Path, line: str) -> Path:
    """The file named by a line of a list. A missing file is returned as written and fails later."""
    names = dict.fromkeys((line, line.split(" ")[0]))
    for suffix in ("", *SUFFIXES):
        for name in names:
            path = Path(os.path.abspath(root / (name + suffix)))
            if path.is_file():
                return path
    return Path(os.path.abspath(root / line))


def _relative_to_root(path: Path, root: Path) -> str:
    if not path.is_relative_to(root):
        raise UsageError(f"{display_path(path)} lies outside {display_path(root)}; root must contain all videos")
    return path.relative_to(root).as_posix()


def read_table(file: Path, labels: Labels) -> dict[str, dict[str, str]]:
    """The rows of a CSV table by their "file" column; UsageError if the file or a required column is missing."""
    needed = {"file"} | {name for name in ("speaker", "split") if getattr(labels, name) == "table"}
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            missing = needed - set(reader.fieldnames or ())
            if missing:
                raise UsageError(f"{display_path(file)} lacks the column {' and '.join(sorted(missing))}")
            return {PurePosixPath(row["file"]).as_posix(): row for row in reader}
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{display_path(file)} is not a readable table: {reason}") from error


def _label(path: Path, video: str, name: str, labels: Labels, table: dict[str, dict[str, str]]) -> VideoSource:
    row = table.get(video, {})
    speaker = _speaker(video, labels, row)
    split = _split(video, speaker, labels, row)
    return VideoSource(path, video, name, speaker, split, row.get("language", ""), row.get("licence", ""))


def _speaker(video: str, labels: Labels, row: dict[str, str]) -> str:
    path = PurePosixPath(video)
    if labels.speaker == "table":
        return _cell(video, labels, row, "speaker")
    if labels.speaker == "name":
        return path.stem.split("__")[0] or path.stem
    if labels.speaker == "folder" and len(path.parts) > labels.speaker_level:
        return path.parts[labels.speaker_level - 1]
    return path.with_suffix("").as_posix()


def _split(video: str, speaker: str, labels: Labels, row: dict[str, str]) -> str:
    if labels.split == "hash":
        return assign_split(speaker, labels.val_share, labels.test_share)
    if labels.split == "table":
        split, source = _cell(video, labels, row, "split"), f"in {display_path(labels.table or '')}"
    else:
        folders = PurePosixPath(video).parts[:-1]
        split = folders[labels.split_level - 1] if len(folders) >= labels.split_level else ""
        source = f"by its folder at level {labels.split_level}"
    if split not in SPLITS:
        raise UsageError(
            f"the split of {display_path(video)} {source} must be {', '.join(SPLITS)}, not {display_path(split)!r}"
        )
    return split


def _cell(video: str, labels: Labels, row: dict[str, str], column: str) -> str:
    if not row.get(column):
        raise UsageError(f"{display_path(labels.table or '')} has no {column} for {display_path(video)}")
    return row[column]
