"""What is evaluated: a list of faces and sounds."""

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
MISSING = "missing"  # stands for the hash of a file that cannot be read

_LONGEST = 48  # characters of a name; file systems take 255 bytes, and a character has up to four
_NO_NAMES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}  # Windows


@dataclass(frozen=True)
class Pair:
    """A face and the sound that it is to speak.

    Attributes:
        name: unique in its list, also where capitals do not count, and safe as a file's name on any system.
        face, audio: the files, which may be missing.
        speaker: who is seen; the list's word, else what stands before "__" in the face's name, else that name.
    """

    name: str
    face: Path
    audio: Path
    speaker: str = ""


# Lists ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A line of a list; `labels` say what a pair without a name is called after."""

    line: int
    face: Path
    audio: Path
    labels: tuple[str, str]
    name: str = ""
    speaker: str = ""


def read_pairs(path: Path, root: Path | None = None) -> list[Pair]:
    """A list of faces and sounds, UTF-8.

    A .csv has a header with "face" and "audio" and, if wanted, "name" and "speaker"; other columns do not count. Any
    other file is a text with a face's and a sound's path in each line, quoted as in a shell where they hold spaces;
    empty lines and what follows a "#" that begins a word are passed over. Files need not exist.

    Args:
        root: what relative paths begin at, None: the list's folder.

    Raises:
        UsageError: the list cannot be read, is empty, or one of its lines is wrong; the message says which.
    """
    base, text = path.parent if root is None else root, _text(path)
    lines = _csv_lines(path, text) if path.suffix.lower() == ".csv" else _text_lines(path, text)
    entries = []
    for line, face, audio, name, speaker in lines:
        labels = Path(face).stem, Path(audio).stem
        entries.append(_Entry(line, base / face, base / audio, labels, name, speaker))
    return _named(path, entries)


def read_list(path: Path, root: Path, kind: str) -> list[Pair]:
    """One of the test lists that came with the original Wav2Lip.

    "lrs2", "lrs3" and "lrw" hold the ids of a sound and of a face in each line, in this order, "resynced" those of a
    face and of a sound. Ids are paths below `root`; .mp4 is added where there is no extension. A LRW id WORD_00018 is
    also looked for where that data set keeps it, in WORD/test. An LRS id's folder is taken for its speaker.

    Raises:
        UsageError: there is no such kind, or as `read_pairs`.
    """
    if kind not in KINDS:
        raise UsageError(f"a list is of the kind {', '.join(KINDS)}, not {kind!r}")
    entries = []
    for line, text in enumerate(_text(path).splitlines(), 1):
        ids = text.split()
        if not ids:
            continue
        if len(ids) != 2:
            raise UsageError(f"{display_path(path)}:{line}: two ids are wanted, not {len(ids)}")
        face, audio = ids if kind == "resynced" else reversed(ids)
        labels, speaker = (_label(face), _label(audio)), Path(face).parent.name if kind in ("lrs2", "lrs3") else ""
        entries.append(_Entry(line, _located(root, face, kind), _located(root, audio, kind), labels, "", speaker))
    return _named(path, entries)


def _located(root: Path, name: str, kind: str) -> Path:
    file = root / (name if Path(name).suffix else f"{name}.mp4")
    kept = root / name.rpartition("_")[0] / "test" / f"{name}.mp4"
    return kept if kind == "lrw" and not file.is_file() and kept.is_file() else file


def _label(name: str) -> str:
    """An id as part of a name: all of it, since an LRS one is told from others by its folder."""
    return Path(name).with_suffix("").as_posix().replace("/", "_")


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{display_path(path)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{display_path(path)} is no list of pairs: it is not a text in UTF-8") from error
    if "\0" in text:
        raise UsageError(f"{display_path(path)} is no list of pairs: it holds a zero byte")
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
                f"{display_path(path)}:{number}: a face and a sound are wanted, not {len(words)} words; "
                "names with spaces stand in quotes"
            )
        if words:
            yield number, words[0], words[1], "", ""


def _words(line: str) -> Iterator[str]:
    """The words of a line up to a comment; shlex's own comments would also cut names such as take#2.mp4."""
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
            raise UsageError(f"{display_path(path)}:1: the header lacks {' and '.join(missing)}")
        for row in table:
            values = [(row.get(name) or "").strip() for name in ("face", "audio", "name", "speaker")]
            if not (values[0] and values[1]):
                raise UsageError(
                    f"{display_path(path)}:{table.line_num}: the line lacks {'audio' if values[0] else 'face'}"
                )
            yield table.line_num, values[0], values[1], values[2], values[3]
    except csv.Error as error:
        raise UsageError(f"{display_path(path)}:{table.reader.line_num}: {error}") from error


# Names ---------------------------------------------------------------------------------------------------------------


def safe_name(text: str) -> str:
    """The text as a file's name on any system: letters and digits of any script, "_", "+", and inside "." and "-"."""
    name = re.sub(r"[^\w.+-]+", "_", unicodedata.normalize("NFC", text))[:_LONGEST].lstrip(".-").rstrip(".")
    return f"_{name}" if not name or name.split(".")[0].upper() in _NO_NAMES else name


def speaker_of(path: Path) -> str:
    """Who is seen or heard in a file by its name: what stands before "__", else all of it."""
    return path.stem.split("__")[0] or path.stem


def is_own(face: Path, audio: Path) -> bool:
    """Whether a sound is a face's own: the same file, or of the same name in the same folder (a.mp4 and a.wav)."""
    one, other = (Path(os.path.realpath(path)) for path in (face, audio))
    return one == other or ((one.parent, one.stem) == (other.parent, other.stem) and one.suffix != other.suffix)


def _named(path: Path, entries: Sequence[_Entry]) -> list[Pair]:
    """The pairs, those without a name called after face and sound, with a number where that is taken."""
    if not entries:
        raise UsageError(f"{display_path(path)} holds no pair")
    taken: set[str] = set()
    for entry in entries:
        if entry.name and entry.name != safe_name(entry.name):
            raise UsageError(
                f"{display_path(path)}:{entry.line}: {entry.name!r} cannot be a file's name on every system: "
                f"take letters, digits, ., -, + and _, at most {_LONGEST}"
            )
        if entry.name and entry.name.casefold() in taken:
            raise UsageError(f"{display_path(path)}:{entry.line}: the name {entry.name!r} is taken by an earlier line")
        taken.add(entry.name.casefold())
    pairs = []
    for entry in entries:
        name = entry.name or _free(_called(entry), taken)
        taken.add(name.casefold())
        pairs.append(Pair(name, entry.face, entry.audio, entry.speaker or speaker_of(entry.face)))
    return pairs


def _called(entry: _Entry) -> str:
    return safe_name(entry.labels[0] if is_own(entry.face, entry.audio) else "+".join(entry.labels))


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free.casefold() in taken:
        number += 1
        free = f"{name}-{number}"
    return free


# Hashes ---------------------------------------------------------------------------------------------------------------


def fingerprint(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, `MISSING` where there is none that can be read."""
    try:
        if path.is_file():  # a pipe would keep us waiting
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        pass
    return MISSING


def digest(pairs: Iterable[Pair]) -> str:
    """SHA-256 over the pairs' names and speakers and the bytes of their files, wherever they lie."""
    found: dict[Path, str] = {}
    total = hashlib.sha256()
    for pair in pairs:
        for path in (pair.face, pair.audio):
            if path not in found:
                found[path] = fingerprint(path)
        values = [pair.name, pair.speaker, found[pair.face], found[pair.audio]]
        total.update(json.dumps(values).encode() + b"\n")
    return total.hexdigest()
