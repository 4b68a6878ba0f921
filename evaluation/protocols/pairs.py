"""Lists of face and audio files to evaluate."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import UsageError, display_path

KINDS = ("lrs2", "lrs3", "lrw", "resynced")
MISSING = "missing"  # replaces the hash of an unreadable file

_MAX_NAME = 48  # characters; file systems allow 255 bytes, and a character has up to four
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}  # Windows


@dataclass(frozen=True)
class Pair:
    """A face and its driving audio.

    Attributes:
        name: unique in its list, case-insensitively, and a safe file name on any system.
        face, audio: the files, which may be missing.
        speaker: the person in the video: from the list, else the part before "__" in the face's file name, else that
            whole name.
    """

    name: str
    face: Path
    audio: Path
    speaker: str = ""


# Lists ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A line of a list; a pair without a name is named after `labels`."""

    line: int
    face: Path
    audio: Path
    labels: tuple[str, str]
    name: str = ""
    speaker: str = ""


def read_pairs(path: Path, root: Path | None = None) -> list[Pair]:
    """Read a list of face and audio files, UTF-8.

    A .csv has a header with "face" and "audio" and optionally "name" and "speaker"; other columns are ignored. Any
    other file is a text file with a face path and an audio path per line, shell-quoted if they contain spaces; empty
    lines and comments, from a word that starts with "#", are ignored. The files need not exist.

    Args:
        root: base folder of relative paths; None for the list's folder.

    Raises:
        UsageError: the list is unreadable or empty, or a line is invalid; the message names the line.
    """
    base, text = path.parent if root is None else root, _text(path)
    lines = _csv_lines(path, text) if path.suffix.lower() == ".csv" else _text_lines(path, text)
    entries = []
    for line, face, audio, name, speaker in lines:
        labels = Path(face).stem, Path(audio).stem
        entries.append(_Entry(line, base / face, base / audio, labels, name, speaker))
    return _named(path, entries)


def read_list(path: Path, root: Path, kind: str) -> list[Pair]:
    """Read one of the original Wav2Lip test lists.

    Each line of "lrs2", "lrs3" and "lrw" holds an audio id and a face id, in this order; "resynced" has the face first.
    Ids are paths below `root`; .mp4 is appended if there is no extension. An LRW id WORD_00018 is also looked up in
    WORD/test, as in that dataset's layout. The folder of an LRS id is its speaker.

    Raises:
        UsageError: unknown kind, or as for `read_pairs`.
    """
    if kind not in KINDS:
        raise UsageError(f"list format must be one of {', '.join(KINDS)}, not {kind!r}")
    entries = []
    for line, text in enumerate(_text(path).splitlines(), 1):
        ids = text.split()
        if not ids:
            continue
        if len(ids) != 2:
            raise UsageError(f"{display_path(path)}:{line}: expected two ids, got {len(ids)}")
        face, audio = ids if kind == "resynced" else reversed(ids)
        labels, speaker = (_label(face), _label(audio)), Path(face).parent.name if kind in ("lrs2", "lrs3") else ""
        entries.append(_Entry(line, _resolve(root, face, kind), _resolve(root, audio, kind), labels, "", speaker))
    return _named(path, entries)


def _resolve(root: Path, name: str, kind: str) -> Path:
    file = root / (name if Path(name).suffix else f"{name}.mp4")
    kept = root / name.rpartition("_")[0] / "test" / f"{name}.mp4"
    return kept if kind == "lrw" and not file.is_file() and kept.is_file() else file


def _label(name: str) -> str:
    """An id as part of a name; the folder is kept, since LRS ids are unique only with it."""
    return Path(name).with_suffix("").as_posix().replace("/", "_")


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {display_path(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{display_path(path)} is not a list of pairs: not UTF-8 text") from error
    if "\0" in text:
        raise UsageError(f"{display_path(path)} is not a list of pairs: it contains a null byte")
    return text


_Line = tuple[int, str, str, str, str]  # number, face, audio, name, speaker


def _text_lines(path: Path, text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = list(_words(line))
        except ValueError as error:  # shlex's, e.g. "No closing quotation"
            raise UsageError(f"{display_path(path)}:{number}: {str(error).lower()}") from error
        if words and (len(words) != 2 or not all(words)):
            raise UsageError(
                f"{display_path(path)}:{number}: expected a face and an audio path, got {len(words)} words; "
                "quote paths that contain spaces"
            )
        if words:
            yield number, words[0], words[1], "", ""


def _words(line: str) -> Iterator[str]:
    """The words of a line up to a comment; shlex's own comment handling would also cut names such as take#2.mp4."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    for word in lexer:
        if word.startswith("#"):
            return
        yield word


def _csv_lines(path: Path, text: str) -> Iterator[_Line]:
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [name for name in ("face", "audio") if name not in (table.fieldnames or ())]
        if missing:
            raise UsageError(f"{display_path(path)}:1: missing column {' and '.join(missing)}")
        for row in table:
            values = [(row.get(name) or "").strip() for name in ("face", "audio", "name", "speaker")]
            if not (values[0] and values[1]):
                raise UsageError(f"{display_path(path)}:{table.line_num}: {'audio' if values[0] else 'face'} is empty")
            yield table.line_num, values[0], values[1], values[2], values[3]
    except csv.Error as error:
        raise UsageError(f"{display_path(path)}:{table.reader.line_num}: {error}") from error


# Names ---------------------------------------------------------------------------------------------------------------


def safe_name(text: str) -> str:
    """The text as a safe file name on any system.

    It keeps letters and digits of any script, "_" and "+", and also "." and "-" except at the start (and "." at the
    end).
    """
    name = re.sub(r"[^\w.+-]+", "_", unicodedata.normalize("NFC", text))[:_MAX_NAME].lstrip(".-").rstrip(".")
    return f"_{name}" if not name or name.split(".")[0].upper() in _RESERVED else name


def speaker_of(path: Path) -> str:
    """The speaker encoded in a file name: the part before "__", else the whole stem."""
    return path.stem.split("__")[0] or path.stem


def is_own_audio(face: Path, audio: Path) -> bool:
    """Whether audio is a face's own: the same file, or the same name in the same folder (a.mp4 and a.wav)."""
    one, other = (Path(os.path.realpath(path)) for path in (face, audio))
    return one == other or ((one.parent, one.stem) == (other.parent, other.stem) and one.suffix != other.suffix)


def _named(path: Path, entries: Sequence[_Entry]) -> list[Pair]:
    """Pairs with unique names: given ones, or derived from face and audio, numbered if taken."""
    if not entries:
        raise UsageError(f"{display_path(path)} contains no pairs")
    taken: set[str] = set()
    for entry in entries:
        if entry.name and entry.name != safe_name(entry.name):
            raise UsageError(
                f"{display_path(path)}:{entry.line}: {entry.name!r} is not a safe file name: "
                f"use at most {_MAX_NAME} letters, digits, ., -, + and _"
            )
        if entry.name and entry.name.casefold() in taken:
            raise UsageError(f"{display_path(path)}:{entry.line}: duplicate name {entry.name!r}")
        taken.add(entry.name.casefold())
    pairs = []
    for entry in entries:
        name = entry.name or _unique(_default_name(entry), taken)
        taken.add(name.casefold())
        pairs.append(Pair(name, entry.face, entry.audio, entry.speaker or speaker_of(entry.face)))
    return pairs


def _default_name(entry: _Entry) -> str:
    return safe_name(entry.labels[0] if is_own_audio(entry.face, entry.audio) else "+".join(entry.labels))


def _unique(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique.casefold() in taken:
        number += 1
        unique = f"{name}-{number}"
    return unique


# Hashes ---------------------------------------------------------------------------------------------------------------


def fingerprint(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, or `MISSING` if it cannot be read."""
    try:
        if path.is_file():  # reading a pipe would block
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        pass
    return MISSING


def digest(pairs: Iterable[Pair]) -> str:
    """SHA-256 over the names, speakers and file contents of the pairs, independent of where the files are."""
    found: dict[Path, str] = {}
    total = hashlib.sha256()
    for pair in pairs:
        for path in (pair.face, pair.audio):
            if path not in found:
                found[path] = fingerprint(path)
        values = [pair.name, pair.speaker, found[pair.face], found[pair.audio]]
        total.update(json.dumps(values).encode() + b"\n")
    return total.hexdigest()
