"""The face's pictures in the order in which they are shown: forward, and on when the speech is longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import MediaError, UsageError
from preprocessing.media.video_reader import VideoInfo, probe, read_frames

SYNC_MODES = ("bounce", "loop", "freeze", "cut")
BACKWARD_BYTES = 128 * 2**20  # of frames that are held at once while a video is played backwards


@dataclass(frozen=True)
class Framing:
    """What is done to each picture before anything else, in the original's order.

    Attributes:
        resize_factor: width and height are divided by it.
        rotate: a quarter turn clockwise.
        crop: first and one-past-last row, first and one-past-last column; -1 is the picture's edge.
    """

    resize_factor: int = 1
    rotate: bool = False
    crop: tuple[int, int, int, int] = (0, -1, 0, -1)

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (H', W', 3).

        Raises:
            UsageError: nothing is left of the picture.
        """
        if self.resize_factor < 1:
            raise UsageError(f"--resize-factor is a whole number from 1 on, not {self.resize_factor}")
        if self.resize_factor > 1:
            size = (max(1, frame.shape[1] // self.resize_factor), max(1, frame.shape[0] // self.resize_factor))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        if self.rotate:
            frame = cv2.rotate(frame, cv2.ROTATE_90_CLOCKWISE)
        if self.crop != (0, -1, 0, -1):
            frame = self._cut(frame)
        return frame

    def _cut(self, frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        top, bottom, left, right = self.crop
        bottom, right = (height if bottom == -1 else bottom), (width if right == -1 else right)
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise UsageError(
                f"--crop {' '.join(map(str, self.crop))} (top bottom left right) does not lie inside the picture of "
                f"{width}x{height} pixels"
            )
        return np.ascontiguousarray(frame[top:bottom, left:right])


class FaceSource:
    """A video or photo as numbered pictures at a constant rate.

    Attributes:
        info: what the file says; for a photo, fps is the one asked for.
        fps: pictures in a second.
        size: width and height after framing.
        still: whether there is one picture only (a photo, or `static`).
        count: number of pictures as the file announces it; a damaged file gives fewer.
    """

    def __init__(
        self, path: Path, framing: Framing, *, fps: Fraction = Fraction(25), static: bool = False,
        start: float = 0.0, end: float | None = None,
    ) -> None:  # fmt: skip
        self.path, self.framing = path, framing
        self.info: VideoInfo = probe(path)
        if self.info.is_image:
            self.info = replace(self.info, fps=fps)
        self.fps = self.info.fps
        self.still = static or self.info.is_image
        self.start, self.end = (0.0, None) if self.info.is_image else (start, end)
        last = self.info.duration if self.end is None else min(self.end, self.info.duration)
        if not self.info.is_image and self.start >= last:
            raise UsageError(f"--start {start:g} lies after the video's end at {self.info.duration:.2f} s")
        self.count = 1 if self.still else max(1, round((last - self.start) * self.fps))
        first = next(self.frames(0), None)
        if first is None:
            raise MediaError(f"{path} holds no picture that can be decoded")
        self.size = (first.shape[1], first.shape[0])

    def frames(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Pictures `first` to `stop` (one past the last; None: to the end)."""
        if self.info.is_image:
            pictures = read_frames(self.path)
        else:
            begin = self.start + float(first / self.fps)
            pictures = read_frames(self.path, fps=self.fps, start=begin, end=self.end)
        for number, frame in enumerate(pictures, first):
            if (stop is not None and number >= stop) or (self.still and number >= 1):
                return
            yield self.framing.apply(frame)

    def play(self, total: int, mode: str) -> Iterator[tuple[int, np.ndarray]]:
        """`total` pictures with their numbers; how it goes on after the last one is `mode`'s choice.

        bounce plays back and forth, loop starts again, freeze holds the last picture, cut ends there.
        """
        number, frame = -1, None
        for number, frame in enumerate(self.frames(0, total)):
            yield number, frame
        count = number + 1
        if frame is None or (mode == "cut" and not self.still):
            return
        held = self.still or mode == "freeze" or count == 1
        order = self._freeze(count - 1, frame) if held else self._on(count, mode)
        for _, item in zip(range(total - count), order, strict=False):
            yield item

    def order(self, total: int, mode: str, count: int) -> Iterator[int]:
        """The numbers of the frames that `play` gives, where the source holds `count` frames."""
        for shown in range(total):
            after = shown - count
            if after < 0:
                yield shown
            elif mode == "cut" and not self.still:
                return
            elif self.still or mode == "freeze" or count == 1:
                yield count - 1
            elif mode == "loop":
                yield after % count
            else:
                after %= 2 * (count - 1)
                yield count - 2 - after if after < count - 1 else after - count + 2

    def _freeze(self, number: int, frame: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        while True:
            yield number, frame

    def _on(self, count: int, mode: str) -> Iterator[tuple[int, np.ndarray]]:
        """Endless pictures after the first pass of `count` pictures."""
        while True:
            if mode == "bounce":
                yield from self._backwards(count - 1)
            yield from enumerate(self.frames(1 if mode == "bounce" else 0, count), 1 if mode == "bounce" else 0)

    def _backwards(self, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Pictures stop - 1 down to 0, read in pieces that fit into BACKWARD_BYTES."""
        piece = max(2, BACKWARD_BYTES // (self.size[0] * self.size[1] * 3))
        while stop > 0:
            first = max(0, stop - piece)
            yield from reversed(list(enumerate(self.frames(first, stop), first)))
            stop = first
