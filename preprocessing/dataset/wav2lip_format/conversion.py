"""Export of clips to the original Wav2Lip data layout, and import from it.

The layout is FOLDER/<speaker>/<id>/0.jpg, 1.jpg, ..., audio.wav and FOLDER/filelists/{train,val,test}.txt with lines
<speaker>/<id>. Exported folders also hold clip.json and track.json, from which the same clip is restored. Folders made
by the original preprocess.py lack both: their images are detection boxes of any size, and frames without a face have no
image.
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

MARKER = ".exported-clips"  # speaker folders never start with a dot
NOTE = "Clips in the layout of the original Wav2Lip. The next export into this folder replaces its filelists.\n"
UNFINISHED = ".unfinished"
MEASURES = ("side", "sharpness", "yaw", "roll", "missing", "occluded", "speech", "level", "clipped")
SYNC_SCORES = ("offset", "confidence")


def export_wav2lip(clips: Path, folder: Path) -> int:
    """Exports every clip that passes to the original layout, and writes the file lists.

    The images are the stored JPEGs, byte for byte, including their margin; the original training code uses them as
    faces. Each clip folder is moved into place when complete, the lists last, so an interrupted export can be repeated.

    Args:
        clips: the output folder of preprocessing.build.
        folder: new, empty, or an earlier export.

    Returns:
        The number of clips.

    Raises:
        UsageError: there is no clip to export, a clip is damaged, or the folder holds other files.
    """
    rows = [row for row in read_manifest(clips / "manifest.csv") if row.passes and row.clip]
    if not rows:
        raise UsageError(f"{display_path(clips)} has no clip that passes")
    strays = {row.split for row in rows} - set(SPLITS)
    if strays:
        raise UsageError(f"clip splits must be {', '.join(SPLITS)}, not {', '.join(map(repr, sorted(strays)))}")
    _check_disjoint(clips, folder)
    _prepare_target(folder)
    work = folder / UNFINISHED
    shutil.rmtree(work, ignore_errors=True)  # leftovers of a killed export
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
    """Rejects folders that contain one another."""
    one, other = source.resolve(), target.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(f"{display_path(target)} and {display_path(source)} must not contain one another")


def _prepare_target(folder: Path) -> None:
    """Creates and marks the export folder; never overwrites other files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{display_path(folder)} is a file; a folder is needed") from None
    if any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UsageError(f"{display_path(folder)} holds files other than exported clips; choose a new or empty folder")
    (folder / MARKER).write_text(NOTE)


def _install(made: Path, target: Path, aside: Path) -> None:
    """Moves a finished folder into place, then deletes the one it replaces."""
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
    """Imports all folders <speaker>/<id> below `folder` as clips and writes manifest.csv and videos.csv.

    Exported folders are restored exactly. Others become crops of kind "box" without margin, one clip for every run of 5
    to 250 consecutively numbered images, with the matching audio. Splits come from the file lists, and folders in none
    of them are skipped; without lists, a hash of the speaker's name decides. Nothing outside `folder` is read. Unusable
    folders are reported in videos.csv and do not stop the import. An import can be repeated after an interruption or
    when folders were added.

    Returns:
        The number of clips.

    Raises:
        UsageError: the folder does not exist, or `clips` holds clips built from videos.
        OSError: `clips` is not writable.
    """
    if not folder.is_dir():
        raise UsageError(f"{display_path(folder)} is not a folder")
    if (clips / "state").exists():
        raise UsageError(f"{display_path(clips)} holds clips built from videos; import into a separate folder")
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
    """Every folder <speaker>/<id> (or <speaker>, if it has no subfolders), then list entries without a folder."""
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


def _folders(parent: Path) -> list[str]:
    """Sorted names of the visible subfolders; empty if the folder cannot be read."""
    try:
        names = os.listdir(parent)
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith(".") and (parent / name).is_dir())


def _read_lists(root: Path) -> dict[str, dict[str, bool]]:
    """The names in each existing file list; everything after the first space of a line is ignored."""
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
    """Imports one folder: its clips and its outcome."""
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
        faults.append(f"it has no {SHORTEST} consecutively numbered images with audio")
    length, work = sum(row.seconds for row in rows), time.perf_counter() - begin
    reason = faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "") if faults else ""
    speaker = rows[0].speaker if rows else speaker
    return rows, VideoRow(
        entry.name, speaker, split, "made" if rows else "broken", reason, length, len(rows), length, work
    )


def _restore(entry: FaceFolder, numbers: Sequence[int], clips: Path) -> ClipRow:
    """Restores an exported clip, bit for bit."""
    header, speech, row = _read_record(entry)
    whole = len(numbers) == header.frames == numbers[-1] + 1 and len(speech) == header.columns
    if not whole:
        raise UsageError(f"{display_path(entry.name)} does not hold the {header.frames} frames that were exported")
    for number in numbers:
        if entry.image(number).shape != (header.side, header.side, 3):
            raise UsageError(f"{number}.jpg of {display_path(entry.name)} is not {header.side}x{header.side} pixels")
    samples, track = _read_audio(entry.file("audio.wav"), header.samples), FaceTrack.load(entry.file("track.json"))
    if len(track) != header.frames:
        raise UsageError(f"track.json of {display_path(entry.name)} has {len(track)} frames, not {header.frames}")
    row.audio_sha256 = hashlib.sha256(samples.tobytes()).hexdigest()
    jpegs = [entry.file(f"{number}.jpg").read_bytes() for number in numbers]
    write_clip(clips / row.clip, header, jpegs, samples, track, speech)
    return row


def _read_record(entry: FaceFolder) -> tuple[ClipHeader, np.ndarray, ClipRow]:
    """Header, speech flags and row from clip.json, which is untrusted: it is parsed as JSON and validated."""
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
        raise UsageError(
            f"{display_path(path)} is not a valid export record: {' '.join(str(error).split())}"
        ) from error


def _read_audio(path: Path, count: int) -> np.ndarray:
    """The `count` exported samples, int16."""
    try:
        with wave.open(str(path)) as file:
            if file.getparams()[:4] != (1, 2, AudioConfig().sample_rate, count):
                raise UsageError(
                    f"{display_path(path)} is not the exported audio: expected {count} 16-bit mono samples"
                )
            return np.frombuffer(file.readframes(count), "<i2").astype(np.int16)
    except (wave.Error, EOFError, OSError) as error:
        raise UsageError(f"{display_path(path)} cannot be read: {error}") from error
