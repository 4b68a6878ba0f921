"""Reads the jobs of a batch from a CSV table, a JSON-lines file or a folder; refuses mistakes before any work."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from inference.job import ALIASES, ENGINE_FLAGS, Job, with_paths
from preprocessing.errors import MediaError, UsageError, display_path

FACES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".jpg", ".jpeg", ".png", ".webp")
SOUNDS = (".wav", ".mp3", ".m4a", ".flac", ".ogg", ".opus", ".aac")
ENDING = ".mp4"


@dataclass(frozen=True)
class BatchJob:
    """One job of a batch.

    Attributes:
        row: line of the table, or position in the folder, from 1.
        name: the output, relative to the batch's folder; identifies the job.
        job: what to do.
        engine: values of ENGINE_FLAGS that are given.
    """

    row: int
    name: str
    job: Job
    engine: tuple[tuple[str, str], ...] = ()


def read_jobs(source: Path, out: Path, defaults: Mapping[str, Any]) -> list[BatchJob]:
    """The jobs of a .csv or .jsonl file or a folder, with outputs in `out`.

    Args:
        defaults: options of all jobs; a row's own win.

    Raises:
        MediaError: the file cannot be read.
        UsageError: a row is wrong, or two write the same file; names the line.
    """
    rows = list(_rows(source))
    if not rows:
        raise UsageError(f"{display_path(source)} has no jobs")
    jobs, owner = [], dict[str, int]()
    for number, values in rows:
        try:
            own = {ALIASES.get(name, name.replace("-", "_")): value for name, value in values.items()}
            name = own.pop("outfile", None) or _default_name(own)
            jobs.append(_batch_job(number, name, {**defaults, **with_paths(own, source.parent)}, out))
        except UsageError as error:
            raise UsageError(f"{display_path(source)}, {_where(source, number)}: {error}") from None
        key = jobs[-1].name.lower()  # a file system may not tell A.mp4 from a.mp4
        if key in owner:
            raise UsageError(f"{display_path(source)}: jobs {owner[key]} and {number} both write {jobs[-1].name}")
        owner[key] = number
    return jobs


def _where(source: Path, number: int) -> str:
    return f"job {number}" if source.is_dir() else f"line {number}"


def _rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and values of each job."""
    if source.is_dir():
        yield from enumerate(_folder_rows(source), 1)
    elif source.suffix.lower() in (".csv", ".jsonl"):
        try:
            text = source.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise MediaError(f"{display_path(source)} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{display_path(source)} is not UTF-8 text") from error
        yield from _csv_rows(source, text) if source.suffix.lower() == ".csv" else _json_rows(source, text)
    elif source.exists():
        raise UsageError(f"{display_path(source)} must be a .csv or .jsonl file or a folder")
    else:
        raise MediaError(f"{display_path(source)} does not exist")


def _csv_rows(source: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if "face" not in names or "audio" not in names:
            raise UsageError(f"{display_path(source)} needs the columns face and audio in its first line")
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{display_path(source)}, line {reader.line_num}: {len(names)} columns expected")
            values = {name.strip(): value.strip() for name, value in row.items()}
            yield reader.line_num, {name: value for name, value in values.items() if value}
    except csv.Error as error:
        raise UsageError(f"{display_path(source)}, line {reader.line_num}: {error}") from error


def _json_rows(source: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{display_path(source)}, line {number}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise UsageError(f"{display_path(source)}, line {number}: a job must be a JSON object")
        yield number, values


def _folder_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """A job for each face and sound of the same name, such as anna.mp4 and anna.wav."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in FACES + SOUNDS:
            groups[path.stem].append(path)
    for name, paths in groups.items():
        faces = [path for path in paths if path.suffix.lower() in FACES]
        sounds = [path for path in paths if path.suffix.lower() in SOUNDS]
        if len(faces) != 1 or len(sounds) != 1:
            raise UsageError(
                f"{display_path(folder)} needs one face and one sound of each name, such as {display_path(name)}.mp4 "
                f"and {display_path(name)}.wav, not {len(faces)} and {len(sounds)}"
            )
        yield {"face": faces[0], "audio": sounds[0], "out": name + ENDING}


def _batch_job(row: int, out_name: object, values: dict[str, Any], out: Path) -> BatchJob:
    engine = tuple((name, str(values.pop(name))) for name in ENGINE_FLAGS if values.get(name))
    name = PurePath(str(out_name))
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise UsageError(f"out must be a file name in the folder of --out, not {display_path(str(out_name))!r}")
    job = Job.of(values | {"outfile": out / name})
    if job.options.save_track is not None:
        raise UsageError("save_track is not for batches")
    return BatchJob(row, name.as_posix(), job, engine)


def _default_name(values: Mapping[str, Any]) -> str:
    face, audio = values.get("face"), values.get("audio")
    sound = f"_{Path(str(audio)).stem}" if audio else ""
    return f"{Path(str(face)).stem}{sound}{ENDING}" if face else ""
