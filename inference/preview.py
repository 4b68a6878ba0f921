"""A contact sheet: some pictures before and after, to be looked at."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import MediaError, display_path

WIDTH = 320  # pixels of one picture on the sheet
COLUMNS = 8


def sheet_path(video: Path) -> Path:
    """Where the contact sheet of a video lies: NAME.preview.png beside it."""
    return video.with_name(video.stem + ".preview.png")


class Preview:
    """Collects `count` pictures, evenly over a video of `total`."""

    def __init__(self, count: int, total: int) -> None:
        self._wanted = set(np.linspace(0, max(total - 1, 0), count).round().astype(int).tolist())
        self._columns: list[np.ndarray] = []

    def show(self, number: int, before: np.ndarray, after: np.ndarray) -> None:
        """Takes picture `number` if it is one of those wanted; both are (H, W, 3) uint8."""
        if number not in self._wanted:
            return
        height = max(1, round(before.shape[0] * WIDTH / before.shape[1]))
        small = [cv2.resize(x, (WIDTH, height), interpolation=cv2.INTER_AREA) for x in (before, after)]
        self._columns.append(np.vstack(small))

    def sheet(self) -> np.ndarray:
        """Each picture above as it was and below as it is, in rows of COLUMNS: (H, W, 3) uint8."""
        rows = [self._columns[i : i + COLUMNS] for i in range(0, len(self._columns), COLUMNS)]
        blank = np.zeros_like(self._columns[0])
        wide = min(COLUMNS, len(self._columns))
        return np.vstack([np.hstack(row + [blank] * (wide - len(row))) for row in rows])

    def save(self, video: Path) -> Path:
        """Writes the sheet beside `video`, whole or not at all. Raises MediaError when that is impossible."""
        path = sheet_path(video)
        data = cv2.imencode(".png", self.sheet())[1]
        try:
            with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
                part = Path(folder, "sheet.png")  # not a temporary file itself: those only their owner may read
                part.write_bytes(data.tobytes())
                os.replace(part, path)
        except OSError as error:
            raise MediaError(f"{display_path(path)} cannot be written: {error.strerror}") from error
        return path
