"""Finds the people in a video: who is visible where and when, numbered in order of appearance.

A person is followed within a shot by their place. After a cut, or where a face comes back elsewhere, a face counts as
the same person only if it looks the same as before: the same head in front of the same background, as when an interview
cuts back to its first camera. Someone shown from another side is a new number.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from preprocessing.faces.face_track import FaceDetector, FaceTrack, TrackedFace, reduce_frame
from preprocessing.faces.identity import relative_step
from preprocessing.faces.tracking import MultiFaceTracker

MAX_AT_ONCE = 6  # people followed at the same time
MIN_SECONDS = 0.4  # people visible for less are false detections, or too short to speak
LOOK_SIDE = 24  # pixels: side of the picture by which a face is recognized
LOOK_EVERY = 25  # frames between two pictures of one appearance, of which the first and the latest are kept
LOOK_MARGIN = 0.6  # of the face's side around it
RECENT = 20  # appearances of a person that a new one is compared with
SAME_LOOK = 0.75  # minimum correlation of two pictures of one person
TRACK_SIDE = 640  # pixels: longer side of the frames that are kept while the tracker looks ahead


@dataclass
class Appearance:
    """One face followed without interruption within one shot.

    Attributes:
        first: the first frame.
        shot: the number of the shot.
        boxes, points: (n * 4) and (n * 10) float32, frame by frame.
        looks: pictures of the face at its first frame and at the latest one, see `look`.
    """

    first: int
    shot: int
    boxes: array[float] = field(default_factory=lambda: array("f"))
    points: array[float] = field(default_factory=lambda: array("f"))
    looks: list[np.ndarray] = field(default_factory=list)

    @property
    def last(self) -> int:
        """One past the last frame."""
        return self.first + len(self.boxes) // 4

    def box(self, number: int) -> np.ndarray:
        """(4,) the box in frame `number`."""
        return np.array(self.boxes[4 * (number - self.first) : 4 * (number - self.first + 1)])

    def add(self, face: TrackedFace) -> None:
        """Adds the next frame's face."""
        self.boxes.frombytes(face.box.tobytes())
        self.points.frombytes(face.points.tobytes())


@dataclass
class Person:
    """A person in a video of `length` frames.

    Attributes:
        number: from 1, in order of appearance; people who appear together are numbered from left to right.
        length: number of frames of the video.
        size: width and height of the frames.
        appearances: in order of time.
    """

    number: int
    length: int
    size: tuple[int, int]
    appearances: list[Appearance]

    @property
    def first(self) -> int:
        """The first frame with this person."""
        return self.appearances[0].first

    @property
    def last(self) -> int:
        """One past the last frame with this person."""
        return self.appearances[-1].last

    @property
    def frames(self) -> int:
        """Number of frames with this person."""
        return sum(part.last - part.first for part in self.appearances)

    def faces(self, count: int | None = None) -> Iterator[TrackedFace]:
        """The face in each of the first `count` frames."""
        parts, nothing = iter(self.appearances), np.full((7, 2), np.nan, np.float32)
        part = next(parts, None)
        for number in range(self.length if count is None else count):
            while part is not None and number >= part.last:
                part = next(parts, None)
            if part is None or number < part.first:
                yield TrackedFace(number, nothing[:2].ravel(), nothing[2:], False, part.shot if part else -1)
                continue
            points = part.points[10 * (number - part.first) : 10 * (number - part.first + 1)]
            box = part.box(number).astype(np.float32)
            yield TrackedFace(number, box, np.array(points, np.float32).reshape(5, 2), True, part.shot)

    def track(self) -> FaceTrack:
        """The faces of all frames."""
        boxes, points = (np.full((self.length, *shape), np.nan, np.float32) for shape in ((4,), (5, 2)))
        shot = np.full(self.length, -1, np.int32)
        for part in self.appearances:
            span = slice(part.first, part.last)
            boxes[span] = np.array(part.boxes, np.float32).reshape(-1, 4)
            points[span] = np.array(part.points, np.float32).reshape(-1, 5, 2)
            shot[span] = part.shot
        return FaceTrack(boxes, points, np.isfinite(boxes[:, 0]), shot, self.size)

    def best_frame(self) -> int:
        """The frame with the largest face, away from the ends of an appearance."""
        part = max(self.appearances, key=lambda part: part.last - part.first)
        boxes = np.array(part.boxes).reshape(-1, 4)
        sides = (boxes[:, 2:] - boxes[:, :2]).min(1)
        margin = len(sides) // 4
        return part.first + margin + int(np.argmax(sides[margin : len(sides) - margin]))

    def box(self, number: int) -> np.ndarray:
        """(4,) the box in a frame with this person."""
        return next(part for part in self.appearances if part.first <= number < part.last).box(number)


def find_people(
    frames: Iterable[np.ndarray], detector: FaceDetector, *, fps: float = 25.0, every: int = 5,
    progress: Callable[[int], None] | None = None,
) -> list[Person]:  # fmt: skip
    """Follows every face through all frames, uint8 BGR (H, W, 3), in one pass and bounded memory.

    Args:
        every: frames between two runs of the detector.
        progress: called with the number of frames done.

    Returns:
        The people, by number. People visible for less than MIN_SECONDS are left out, unless the video is that short.
    """
    tracker = MultiFaceTracker(detector, max_faces=MAX_AT_ONCE, every=every, fps=fps)
    record, waiting = _Record(), deque[np.ndarray]()
    for number, frame in enumerate(frames, 1):
        waiting.append(reduce_frame(frame, TRACK_SIDE))
        for faces in tracker.push(frame):
            record.add(faces, waiting.popleft(), tracker.size)
        if progress:
            progress(number)
    for faces in tracker.finish():
        record.add(faces, waiting.popleft(), tracker.size)
    least = max(1, min(round(MIN_SECONDS * fps), record.count // 3))
    groups = [group for group in _same_people(record.closed()) if sum(len(part.boxes) // 4 for part in group) >= least]
    groups.sort(key=lambda group: (group[0].first, group[0].boxes[0]))
    size = tracker.size or (0, 0)
    return [Person(number, record.count, size, group) for number, group in enumerate(groups, 1)]


class _Record:
    """Collects the appearances of all slots."""

    def __init__(self) -> None:
        self.count = 0
        self._open: dict[int, Appearance] = {}
        self._done: list[Appearance] = []

    def add(self, faces: Sequence[TrackedFace], small: np.ndarray, size: tuple[int, int] | None) -> None:
        """Adds the next frame: its faces by slot, and its reduced picture, of frames of `size`."""
        for slot, face in enumerate(faces):
            part = self._open.get(slot)
            if part is not None and not (face.found and face.shot == part.shot):
                self._done.append(self._open.pop(slot))
                part = None
            if face.found:
                part = part or self._open.setdefault(slot, Appearance(face.index, face.shot))
                part.add(face)
                if size and (face.index - part.first) % LOOK_EVERY == 0:
                    part.looks = [*part.looks[:1], look(small, face.box * small.shape[1] / size[0])]
        self.count += 1

    def closed(self) -> list[Appearance]:
        """All appearances, in order of time."""
        self._done += self._open.values()
        self._open = {}
        return sorted(self._done, key=lambda part: (part.first, part.boxes[0]))


def look(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A small picture of a face and what is around it, with zero mean and unit norm: (3 * LOOK_SIDE ** 2,) float32."""
    center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * (1 + 2 * LOOK_MARGIN)
    scale = LOOK_SIDE / max(side, 1e-6)
    matrix = np.array([[scale, 0, LOOK_SIDE / 2 - scale * center[0]], [0, scale, LOOK_SIDE / 2 - scale * center[1]]])
    picture = cv2.warpAffine(frame, matrix, (LOOK_SIDE, LOOK_SIDE), borderMode=cv2.BORDER_REPLICATE)
    values = picture.astype(np.float32).ravel() - picture.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


def _same_people(parts: Sequence[Appearance]) -> list[list[Appearance]]:
    """Groups appearances, in order of time, by person."""
    people: list[list[Appearance]] = []
    for part in parts:
        free = [group for group in people if group[-1].last <= part.first]
        best = max(free, key=lambda group: _likeness(group, part), default=None)
        if best is not None and _likeness(best, part) > 0:
            best.append(part)
        else:
            people.append([part])
    return people


def _likeness(group: Sequence[Appearance], part: Appearance) -> float:
    """Above 0 if `part` shows the person of `group` again; in one shot by place, otherwise by look."""
    last = group[-1]
    if last.shot == part.shot and (step := relative_step(last.box(last.last - 1), part.box(part.first))) <= 1:
        return 2 - step
    return max(float(one @ other) for old in group[-RECENT:] for one in old.looks for other in part.looks) - SAME_LOOK
