"""The preview: consecutive frames of the mouth, before above after, at the face's own resolution."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import MediaError, display_path
from preprocessing.unfinished import UnfinishedFolder, final_path

CONSECUTIVE = 6  # frames in a row: what moves between two frames is seen only there
GAP = 4  # pixels between pictures
GRAY = 32

Box = tuple[int, int, int, int]  # top, bottom, left, right in pixels


def sheet_path(video: Path) -> Path:
    """Path of a video's preview: NAME.preview.png in the same folder."""
    return video.with_name(video.stem + ".preview.png")


@dataclass
class _Passage:
    """Six consecutive frames, cut at one place."""

    start: int
    box: Box | None = None
    columns: list[np.ndarray] = field(default_factory=list)

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        top, bottom, left, right = self.box or (0, before.shape[0], 0, before.shape[1])
        gap = np.full((GAP, right - left, 3), GRAY, np.uint8)
        self.columns.append(np.vstack([before[top:bottom, left:right], gap, after[top:bottom, left:right]]))

    def picture(self) -> np.ndarray:
        """The frames side by side."""
        gap = np.full((self.columns[0].shape[0], GAP, 3), GRAY, np.uint8)
        return np.hstack([part for column in self.columns for part in (column, gap)][:-1])


class Preview:
    """Collects `count` passages of CONSECUTIVE frames, evenly spaced over a video of `total` frames.

    A passage begins at the first frame with a generated mouth from its place on.
    """

    def __init__(self, count: int, total: int) -> None:
        last = max(total - CONSECUTIVE, 0)
        places = (np.arange(count) + 0.5) / max(count, 1) * last
        self._waiting = [_Passage(int(place)) for place in places[::-1]]
        self._passages: list[_Passage] = []

    def add(self, number: int, before: np.ndarray, after: np.ndarray, mouth: Box | None, changed: bool) -> None:
        """Adds frame `number`; `before` and `after` are (H, W, 3) uint8 BGR, `mouth` is where to look."""
        current = self._passages[-1] if self._passages else None
        if current is not None and len(current.columns) < CONSECUTIVE:
            current.add(before, after)
        elif self._waiting and number >= self._waiting[-1].start and changed:
            passage = self._waiting.pop()
            passage.box = _inside(mouth, before.shape[:2])
            passage.add(before, after)
            self._passages.append(passage)

    def sheet(self) -> np.ndarray | None:
        """The preview, (H, W, 3) uint8 BGR, a passage to a row; None if no frame was changed."""
        if not self._passages:
            return None
        rows = [passage.picture() for passage in self._passages]
        width = max(row.shape[1] for row in rows)
        rows = [
            cv2.copyMakeBorder(r, 0, GAP, 0, width - r.shape[1], cv2.BORDER_CONSTANT, value=[GRAY] * 3) for r in rows
        ]
        return np.vstack(rows)[:-GAP]

    def save(self, video: Path) -> Path | None:
        """Writes the preview next to `video`, atomically; None if no frame was changed.

        Raises:
            MediaError: it cannot be written.
        """
        sheet = self.sheet()
        return None if sheet is None else write_picture(sheet_path(video), sheet)


def _inside(box: Box | None, shape: tuple[int, ...]) -> Box | None:
    """The part of a box inside a frame of (height, width); None if too little of it is."""
    if box is None:
        return None
    top, bottom, left, right = np.clip(box, 0, [shape[0], shape[0], shape[1], shape[1]]).tolist()
    return (top, bottom, left, right) if bottom - top > 1 and right - left > 1 else None


def write_picture(path: Path, picture: np.ndarray) -> Path:
    """Writes (H, W, 3) uint8 BGR as a PNG file, atomically.

    Raises:
        MediaError: it cannot be written.
    """
    data = cv2.imencode(".png", picture)[1]
    try:
        with UnfinishedFolder(final_path(path).parent) as folder:
            part = Path(folder, "sheet.png")  # not a NamedTemporaryFile, which would get mode 0600
            part.write_bytes(data.tobytes())
            os.replace(part, final_path(path))
    except OSError as error:
        raise MediaError(f"{display_path(path)} cannot be written: {error.strerror}") from error
    return path
