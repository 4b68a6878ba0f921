"""A contact sheet: some pictures before and after, to be looked at."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np

from preprocessing.video import MediaError, shown

WIDTH = 320  # pixels of one picture on the sheet


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

    def save(self, video: Path) -> Path:
        """Writes the sheet beside `video` as NAME.preview.png: above as it was, below as it is, in rows of eight."""
        path = video.with_name(video.stem + ".preview.png")
        rows = [self._columns[i : i + 8] for i in range(0, len(self._columns), 8)]
        blank = np.zeros_like(self._columns[0])
        wide = min(8, len(self._columns))
        sheet = np.vstack([np.hstack(row + [blank] * (wide - len(row))) for row in rows])
        _, data = cv2.imencode(".png", sheet)
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data.tobytes())
            os.replace(part, path)
        except OSError as error:
            Path(part).unlink(missing_ok=True)
            raise MediaError(f"{shown(path)} cannot be written: {error.strerror}") from error
        return path
