"""A contact sheet: frames before and after, for visual inspection."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import MediaError, display_path
from preprocessing.unfinished import UnfinishedFolder, final_path

THUMBNAIL_WIDTH = 320  # pixels
COLUMNS = 8


def sheet_path(video: Path) -> Path:
    """Path of a video's contact sheet: NAME.preview.png in the same folder."""
    return video.with_name(video.stem + ".preview.png")


class Preview:
    """Collects `count` frames, evenly spaced over a video of `total` frames."""

    def __init__(self, count: int, total: int) -> None:
        self._selected = set(np.linspace(0, max(total - 1, 0), count).round().astype(int).tolist())
        self._columns: list[np.ndarray] = []

    def add(self, number: int, before: np.ndarray, after: np.ndarray) -> None:
        """Adds frame `number` if it is selected; `before` and `after` are (H, W, 3) uint8 BGR."""
        if number not in self._selected:
            return
        height = max(1, round(before.shape[0] * THUMBNAIL_WIDTH / before.shape[1]))
        thumbnails = [cv2.resize(x, (THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA) for x in (before, after)]
        self._columns.append(np.vstack(thumbnails))

    def sheet(self) -> np.ndarray:
        """The contact sheet, (H, W, 3) uint8 BGR: input frames above output frames, COLUMNS to a row."""
        rows = [self._columns[i : i + COLUMNS] for i in range(0, len(self._columns), COLUMNS)]
        blank = np.zeros_like(self._columns[0])
        width = min(COLUMNS, len(self._columns))
        return np.vstack([np.hstack(row + [blank] * (width - len(row))) for row in rows])

    def save(self, video: Path) -> Path:
        """Writes the contact sheet next to `video`, atomically.

        Raises:
            MediaError: it cannot be written.
        """
        path = sheet_path(video)
        data = cv2.imencode(".png", self.sheet())[1]
        try:
            with UnfinishedFolder(final_path(path).parent) as folder:
                part = Path(folder, "sheet.png")  # not a NamedTemporaryFile, which would get mode 0600
                part.write_bytes(data.tobytes())
                os.replace(part, final_path(path))
        except OSError as error:
            raise MediaError(f"{display_path(path)} cannot be written: {error.strerror}") from error
        return path
