"""Keeps the people found in a face video, so that a job need not find them again. It is data, never code."""

from __future__ import annotations

import json
import os
import zipfile
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inference.options import Options
from preprocessing.faces.people import Appearance, Person

if TYPE_CHECKING:
    from inference.casting import Census

VERSION = 1
# Options on which the numbers, boxes and times of people depend.
USED = ("resize_factor", "rotate", "crop", "fps", "static", "start", "end", "background", "detector", "detect_every")


def save_people(path: Path, census: Census) -> None:
    """Writes the people of a census (.npz), and who speaks if that was found out."""
    people = census.people
    parts = [part for person in people for part in person.appearances]
    arrays = {
        "header": np.frombuffer(_header(census.options).encode(), np.uint8),
        "size": np.array([people[0].length, *people[0].size] if people else [0, 0, 0], np.int64),
        "owners": np.array([person.number for person in people for _ in person.appearances], np.int64),
        "spans": np.array([(part.first, part.last, part.shot) for part in parts], np.int64).reshape(-1, 3),
        "boxes": np.array([value for part in parts for value in part.boxes], np.float32),
        "points": np.array([value for part in parts for value in part.points], np.float32),
    }
    speaking = census.__dict__.get("speaking")  # of a cached property: only what was computed
    if speaking is not None:
        arrays["speaking"] = np.asarray(speaking.by_frame, np.int64)
    part = path.with_suffix(".part")
    with open(part, "wb") as file:  # the old file may have other names
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type] # NumPy's stubs mix up the two
    os.replace(part, path)


def found_with(path: Path, options: Options) -> bool:
    """Whether the file holds people found with options that find the same ones."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return bytes(stored["header"]).decode() == _header(options)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def recall_people(path: Path, census: Census) -> bool:
    """Gives a census the people of the file instead of a search; False if they do not fit: nothing is changed."""
    if not found_with(path, census.options):
        return False
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        people = _people(arrays)
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
        return False
    if not people or people[0].size != tuple(census.source.size):
        return False
    census.__dict__["people"] = people
    if "speaking" in arrays and len(arrays["speaking"]) == people[0].length:
        from inference.speaking import Speaking

        census.__dict__["speaking"] = Speaking(arrays["speaking"], census.source.fps)
    return True


def _header(options: Options) -> str:
    return json.dumps([VERSION, {name: getattr(options, name) for name in USED}], default=str, sort_keys=True)


def _people(arrays: dict[str, np.ndarray]) -> list[Person]:
    """The people; raises ValueError if the arrays contradict each other."""
    length, width, height = map(int, arrays["size"])
    spans, owners = arrays["spans"], arrays["owners"]
    counts = spans[:, 1] - spans[:, 0]
    total, inside = int(counts.sum()), (spans[:, :2] >= 0).all() and (spans[:, :2] <= length).all()
    if len(owners) != len(spans) or (counts <= 0).any() or not inside:
        raise ValueError("spans")
    boxes, points = arrays["boxes"].reshape(total, 4), arrays["points"].reshape(total, 10)
    ends = np.cumsum(counts)
    people: dict[int, Person] = {}
    for owner, (first, _, shot), end, count in zip(owners.tolist(), spans.tolist(), ends, counts, strict=True):
        own = slice(int(end - count), int(end))
        part = Appearance(first, shot, array("f", boxes[own].ravel()), array("f", points[own].ravel()))
        people.setdefault(owner, Person(owner, length, (width, height), [])).appearances.append(part)
    return list(people.values())
