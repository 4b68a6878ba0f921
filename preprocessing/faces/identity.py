"""Matches faces between frames and selects which to track."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.errors import UsageError

SIDES = ("largest", "left", "right", "center")
MAX_STEP = 0.75  # of the face's side: how far a face may move between two detections
MAX_GROWTH = 1.6


def parse_select(select: str) -> str | np.ndarray:
    """Parses one of SIDES or a point 'X,Y'; raises UsageError for anything else."""
    if select in SIDES:
        return select
    try:
        x, y = (float(part) for part in select.split(","))
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError
    except ValueError:
        raise UsageError(f"select must be one of {', '.join(SIDES)} or a point X,Y in pixels, not {select!r}") from None
    return np.array([x, y])


def choose(faces: Sequence[np.ndarray], select: str | np.ndarray, size: tuple[int, int]) -> int:
    """The index of the box (4,) that `select` names in a frame of `size` (width, height); -1 if there is none."""
    if not faces:
        return -1
    boxes = np.stack(faces)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    if not isinstance(select, str):
        outside = np.linalg.norm(select - np.clip(select, boxes[:, :2], boxes[:, 2:]), axis=1)
        return int(np.lexsort((np.linalg.norm(centers - select, axis=1), outside))[0])
    least = {
        "largest": -np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        "left": centers[:, 0],
        "right": -centers[:, 0],
        "center": np.linalg.norm(centers - np.asarray(size) / 2, axis=1),
    }
    return int(np.argmin(least[select]))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over the area of the smaller of two boxes (4,), 0 to 1."""
    shared = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    least = min(np.prod(one[2:] - one[:2]), np.prod(other[2:] - other[:2]))
    return float(np.prod(np.maximum(shared, 0)) / max(least, 1e-9))


@dataclass
class KnownFace:
    """A previously seen face: its number, last box and last frame index."""

    number: int
    box: np.ndarray
    seen: int


class IdentityAssigner:
    """Numbers faces in order of appearance and re-identifies them by position and size."""

    def __init__(self, max_gap: int) -> None:
        self.people: dict[int, KnownFace] = {}
        self._max_gap = max_gap
        self.count = 0
        """Number of faces so far."""

    def new_shot(self) -> None:
        """Forgets all known faces; numbering continues."""
        self.people.clear()

    def move(self, number: int, box: np.ndarray) -> None:
        """Updates the last known box of a face."""
        if number in self.people:
            self.people[number].box = box

    def update(self, index: int, boxes: Sequence[np.ndarray]) -> list[int]:
        """Assigns a number to each box in frame `index`; unknown faces get new numbers, left to right."""
        self.people = {n: p for n, p in self.people.items() if index - p.seen <= self._max_gap}
        pairs = [(relative_step(p.box, box), n, i) for n, p in self.people.items() for i, box in enumerate(boxes)]
        numbers: dict[int, int] = {}
        for step, number, i in sorted(pairs):
            if step <= 1 and i not in numbers and number not in numbers.values():
                numbers[i] = number
        for i in sorted(set(range(len(boxes))) - set(numbers), key=lambda i: float(boxes[i][0])):
            numbers[i] = self.count
            self.count += 1
        for i, number in numbers.items():
            self.people[number] = KnownFace(number, boxes[i], index)
        return [numbers[i] for i in range(len(boxes))]


def relative_step(before: np.ndarray, after: np.ndarray) -> float:
    """Distance of two boxes (4,) relative to the allowed motion; above 1 they are different people."""
    sides = [float(np.sqrt(np.prod(box[2:] - box[:2]))) for box in (before, after)]
    if max(sides) > MAX_GROWTH * min(sides):
        return float("inf")
    centers = [(box[:2] + box[2:]) / 2 for box in (before, after)]
    return float(np.linalg.norm(centers[1] - centers[0])) / (MAX_STEP * max(sides))
