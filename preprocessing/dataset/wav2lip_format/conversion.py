"""Clips to the folders that the original's trainers read, and such folders to clips.

FOLDER/<speaker>/<id>/0.jpg, 1.jpg, ..., audio.wav and FOLDER/filelists/{train,val,test}.txt with lines <speaker>/<id>.
A folder that was exported here also holds clip.json and track.json, by which it comes back as the same clip. Folders
that the original's preprocess.py made lack both: their pictures are a detector's boxes as they were cut, of any size,
and their numbers leave out the frames without a face.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import wave
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from preprocessing.dataset.clips import Clip, ClipHeader, write_clip
from preprocessing.dataset.manifest import ClipRow, VideoRow, carry_sync_filter, read_manifest, write_rows
from preprocessing.dataset.splits import SPLITS, TEST_SHARE, VAL_SHARE, assign_split
from preprocessing.dataset.wav2lip_format.face_folder import SHORTEST, FaceFolder, clip_row, import_faces, safe_name
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.audio import AudioConfig

MARKER = ".exported-clips"  # no speaker's folder begins with a dot
NOTE = "Clips in the layout of the original Wav2Lip. The next export into this folder replaces its filelists.\n"
UNFINISHED = ".unfinished"
MEASURES = ("side", "sharpness", "yaw", "roll", "missing", "occluded", "speech", "level", "clipped")
SYNC_SCORES = ("offset", "confidence")


def export_wav2lip(clips: Path, folder: Path) -> int:
    """Writes every clip that passes as a folder of the original's layout, and the file lists.

    The pictures are the stored ones, bytes for bytes, with their margin: the original's trainers take them as faces.
    Each clip's folder appears when it is whole, the lists last, so that an export that was stopped can be run again.

    Args:
        clips: what preprocessing.build wrote.
        folder: new, empty, or an earlier export.

    Returns:
        The number of clips.

    Raises:
        UsageError: there is no clip to export, one is damaged, or the folder holds something else.
    """
    rows = [row for row in read_manifest(clips / "manifest.csv") if row.passes and row.clip]
    if not rows:
        raise UsageError(f"{display_path(clips)} has no clip that passes")
    strays = {row.split for row in rows} - set(SPLITS)
    if strays:
        raise UsageError(f"the splits of clips are {', '.join(SPLITS)}, not {', '.join(map(repr, sorted(strays)))}")
    _check_disjoint(clips, folder)
    _prepare_target(folder)
    work = folder / UNFINISHED
    shutil.rmtree(work, ignore_errors=True)  # what an export that was killed has left
    lists = work / "filelists"
    lists.mkdir(parents=True)
    with ExitStack() as stack:
        files = {split: stack.enter_context((lists / f"{split}.txt").open("w")) for split in SPLITS}
        for row in rows:
            name = f"{safe_name(row.speaker)}/{safe_name(Path(row.clip).stem)}"
            _export_clip(clips / row.clip, row, work / "clip")
            _install(work / "clip", folder / name, work / "old")
            files[row.split].write(f"{name}\n")
    _install(lists, folder / "filelists", work / "old")
    shutil.rmtree(work)
    return len(rows)


def _check_disjoint(source: Path, target: Path) -> None:
    """Refuses folders of which one lies in the other."""
    one, other = source.resolve(), target.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(f"{display_path(target)} and {display_path(source)} must not lie in one another")


def _prepare_target(folder: Path) -> None:
    """Makes the folder ours, or refuses to write over what is not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{display_path(folder)} is a file; a folder is needed") from None
    if any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UsageError(
            f"{display_path(folder)} holds something else than exported clips; name a new or an empty folder"
        )
    (folder / MARKER).write_text(NOTE)


def _install(made: Path, target: Path, aside: Path) -> None:
    """Puts a finished folder in its place; the one that was there is deleted after."""
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        os.replace(target, aside)
    os.replace(made, target)
    shutil.rmtree(aside, ignore_errors=True)


def _export_clip(path: Path, row: ClipRow, folder: Path) -> None:
    clip = Clip.open(path)
    folder.mkdir()
    for number, jpeg in enumerate(clip.jpegs(0, clip.header.frames)):
        (folder / f"{number}.jpg").write_bytes(jpeg)
    with wave.open(str(folder / "audio.wav"), "wb") as file:
        file.setparams((1, 2, clip.header.audio.sample_rate, 0, "NONE", ""))
        file.writeframes(clip.audio.astype("<i2").tobytes())
    clip.track.save(folder / "track.json")
    record: dict[str, Any] = clip.header.metadata() | {"clip": asdict(clip.header)}
    record |= {name: getattr(row, name) for name in ("number", "sync_filter", *SYNC_SCORES)}
    record |= {name: value if math.isfinite(value := getattr(row, name)) else None for name in MEASURES}
    record["speech_flags"] = "".join("01"[flag] for flag in clip.speech.astype(int))
    (folder / "clip.json").write_text(json.dumps(record, allow_nan=False), encoding="ascii")


def import_wav2lip(folder: Path, clips: Path) -> int:
    """Makes clips of all folders <speaker>/<id> below `folder` and writes their manifest.csv and videos.csv.

    Exported folders come back as they were. Others become crops of kind "box" without margin, a clip for every run of
    5 to 250 pictures of consecutive numbers, with the sound of their time. Splits are those of the file lists, and a
    folder that none of them names is left out; without lists a hash of the speaker's name decides. Nothing outside
    `folder` is read. What cannot be used is a row of videos.csv with its reason, and the rest goes on. An import that
    was stopped, or to whose folder something was added, can be run again.

    Returns:
        The number of clips.

    Raises:
        UsageError: there is no such folder, or `clips` holds clips that were built from videos.
        OSError: `clips` cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"{display_path(folder)} is not a folder")
    if (clips / "state").exists():
        raise UsageError(f"{display_path(clips)} holds clips built from videos; import into a folder of its own")
    _check_disjoint(folder, clips)
    old = read_manifest(clips / "manifest.csv") if (clips / "manifest.csv").exists() else []
    clips.mkdir(parents=True, exist_ok=True)
    rows, videos = list[ClipRow](), list[VideoRow]()
    for entry in _entries(folder.resolve()):
        made, video = _import(entry, clips)
        rows += made
        videos.append(video)
    carry_sync_filter(rows, old)
    write_rows(clips / "videos.csv", videos)
    write_rows(clips / "manifest.csv", rows)
    return len(rows)


def _entries(root: Path) -> Iterator[FaceFolder]:
    """Every folder <speaker>/<id> (a speaker without any is one itself), then the lists' lines without a folder."""
    lists = _read_lists(root)
    for speaker in _folders(root):
        if speaker == "filelists":
            continue
        inside = (root / speaker).resolve().is_relative_to(root)
        for name in [f"{speaker}/{name}" for name in (_folders(root / speaker) if inside else ())] or [speaker]:
            named = tuple(split for split, names in lists.items() if names.pop(name, False))
            hashed = assign_split(speaker, VAL_SHARE, TEST_SHARE)
            yield FaceFolder(root, name, named if lists else (hashed,))
    yield from (FaceFolder(root, name, (split,)) for split, names in lists.items() for name in names)


def _folders(place: Path) -> list[str]:
    """The names of the folders in a place, sorted, without hidden ones; none when it cannot be read."""
    try:
        names = os.listdir(place)
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith(".") and (place / name).is_dir())


def _read_lists(root: Path) -> dict[str, dict[str, bool]]:
    """The names in each file list that there is; what follows a line's first space is dropped."""
    lists = {}
    for split in SPLITS:
        path = FaceFolder(root, "filelists", ()).file(f"{split}.txt")
        if path.is_file():
            with path.open(encoding="utf-8", errors="surrogateescape") as lines:
                lists[split] = {
                    PurePosixPath(name).as_posix(): True for line in lines if (name := line.strip().split(" ")[0])
                }
    return lists


def _import(entry: FaceFolder, clips: Path) -> tuple[list[ClipRow], VideoRow]:
    """The clips of one folder, and what became of it."""
    speaker, split = entry.speaker, entry.splits[0] if entry.splits else ""
    if len(entry.splits) != 1:
        reason = f"it is in {' and '.join(f'{split}.txt' for split in entry.splits) or 'none of the file lists'}"
        return [], VideoRow(entry.name, speaker, split, "rejected", reason)
    rows, faults = list[ClipRow](), list[str]()
    begin = time.perf_counter()
    try:
        numbers = entry.numbers()
        if os.path.lexists(entry.file("clip.json")):
            rows.append(_restore(entry, numbers, clips))
        else:
            rows.extend(import_faces(entry, numbers, clips, faults))
    except (ValueError, MediaError) as error:
        faults.insert(0, str(error))
    if not rows and not faults:
        faults.append(f"it has no {SHORTEST} pictures of consecutive numbers with their sound")
    length, work = sum(row.seconds for row in rows), time.perf_counter() - begin
    reason = faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "") if faults else ""
    speaker = rows[0].speaker if rows else speaker
    return rows, VideoRow(
        entry.name, speaker, split, "made" if rows else "broken", reason, length, len(rows), length, work
    )


def _restore(entry: FaceFolder, numbers: Sequence[int], clips: Path) -> ClipRow:
    """The clip that was exported into the folder, bit for bit."""
    header, speech, row = _read_record(entry)
    whole = len(numbers) == header.frames == numbers[-1] + 1 and len(speech) == header.columns
    if not whole:
        raise UsageError(
            f"{display_path(entry.name)} does not hold the pictures of the {header.frames} frames exported"
        )
    for number in numbers:
        if entry.picture(number).shape != (header.side, header.side, 3):
            raise UsageError(f"{number}.jpg of {display_path(entry.name)} is not of {header.side}x{header.side} pixels")
    samples, track = _read_audio(entry.file("audio.wav"), header.samples), FaceTrack.load(entry.file("track.json"))
    if len(track) != header.frames:
        raise UsageError(f"track.json of {display_path(entry.name)} has {len(track)} frames, not {header.frames}")
    row.audio_sha256 = hashlib.sha256(samples.tobytes()).hexdigest()
    jpegs = [entry.file(f"{number}.jpg").read_bytes() for number in numbers]
    write_clip(clips / row.clip, header, jpegs, samples, track, speech)
    return row


def _read_record(entry: FaceFolder) -> tuple[ClipHeader, np.ndarray, ClipRow]:
    """Header, speech flags and row by clip.json. Anybody may have written it: it is read as JSON and checked."""
    path = entry.file("clip.json")
    try:
        record = json.loads(path.read_bytes())
        texts = {"format": record["format"], "version": record["version"], "clip": json.dumps(record["clip"])}
        header = ClipHeader.parse(texts, AudioConfig(), display_path(path))
        row = clip_row(header, entry.target(), entry.splits[0], int(record["number"]))
        for name in MEASURES:
            setattr(row, name, math.nan if record[name] is None else float(record[name]))
        row.offset, row.confidence = (None if record[name] is None else float(record[name]) for name in SYNC_SCORES)
        row.sync_filter = {"": "", "pass": "pass"}[record["sync_filter"]]
        return header, np.array([flag == "1" for flag in record["speech_flags"]]), row
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UsageError(f"{display_path(path)} is not as exported: {' '.join(str(error).split())}") from error


def _read_audio(path: Path, count: int) -> np.ndarray:
    """The `count` samples, int16, that were exported."""
    try:
        with wave.open(str(path)) as file:
            if file.getparams()[:4] != (1, 2, AudioConfig().sample_rate, count):
                raise UsageError(f"{display_path(path)} is not the sound that was exported: {count} samples of 16 bits")
            return np.frombuffer(file.readframes(count), "<i2").astype(np.int16)
    except (wave.Error, EOFError, OSError) as error:
        raise UsageError(f"{display_path(path)} cannot be read: {error}") from error
