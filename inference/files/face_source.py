"""Frames of the face video in output order, which continues past its end if the speech is longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import MediaError, UsageError
from preprocessing.media.color_conversion import BLACK
from preprocessing.media.video_reader import VideoInfo, probe, read_frames

SYNC_MODES = ("bounce", "loop", "freeze", "cut")
BACKWARD_BYTES = 128 * 2**20  # of frames buffered at once during reverse playback


@dataclass(frozen=True)
class Framing:
    """Resizing, rotation and crop of each input frame, in the order of the original Wav2Lip.

    Attributes:
        resize_factor: width and height are divided by it.
        rotate: by 90 degrees clockwise.
        crop: first and one-past-last row, first and one-past-last column; -1 is the far edge.
    """

    resize_factor: int = 1
    rotate: bool = False
    crop: tuple[int, int, int, int] = (0, -1, 0, -1)

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (H', W', 3).

        Raises:
            UsageError: the crop is empty or not inside the frame, or `resize_factor` is less than 1.
        """
        if self.resize_factor < 1:
            raise UsageError(f"--resize-factor must be an integer of at least 1, not {self.resize_factor}")
        if self.resize_factor > 1:
            size = (max(1, frame.shape[1] // self.resize_factor), max(1, frame.shape[0] // self.resize_factor))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        if self.rotate:
            frame = cv2.rotate(frame, cv2.ROTATE_90_CLOCKWISE)
        if self.crop != (0, -1, 0, -1):
            frame = self._crop(frame)
        return frame

    def _crop(self, frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        top, bottom, left, right = self.crop
        bottom, right = (height if bottom == -1 else bottom), (width if right == -1 else right)
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise UsageError(
                f"--crop {' '.join(map(str, self.crop))} (top bottom left right) is not inside the frame of "
                f"{width}x{height} pixels"
            )
        return np.ascontiguousarray(frame[top:bottom, left:right])


class FaceSource:
    """A video or photo as indexed frames at a constant rate.

    Attributes:
        info: properties of the file.
        fps: frame rate: the requested one, else the video's own.
        size: width and height after framing.
        still: whether there is only one frame (a photo, or `static`).
        count: number of frames by the file's header; a damaged file has fewer.
    """

    def __init__(
        self, path: Path, framing: Framing, *, fps: Fraction | None = None, static: bool = False,
        start: float = 0.0, end: float | None = None, background: tuple[int, int, int] = BLACK,
    ) -> None:  # fmt: skip
        self.path, self.framing, self.background = path, framing, background
        self.info: VideoInfo = probe(path)
        self.fps = fps or self.info.fps
        self.still = static or self.info.is_image
        self.start, self.end = (0.0, None) if self.info.is_image else (start, end)
        last = self.info.duration if self.end is None else min(self.end, self.info.duration)
        if not self.info.is_image and self.start >= last:
            raise UsageError(f"--start {start:g} is after the video's end at {self.info.duration:.2f} s")
        self.count = 1 if self.still else max(1, round((last - self.start) * self.fps))
        first = next(self.frames(0), None)
        if first is None:
            raise MediaError(f"{path} has no decodable frame")
        self.size = (first.shape[1], first.shape[0])

    @property
    def planar(self) -> bool:
        """Whether frames can be read as a `PlanarFrame`: framing needs BGR pixels."""
        return self.info.planar and self.framing == Framing()

    def frames(self, first: int = 0, stop: int | None = None, planar: bool = False) -> Iterator[np.ndarray]:
        """Frames `first` to `stop` (exclusive; None: to the end); with `planar` each is a `PlanarFrame` if possible."""
        planar = planar and self.planar
        if self.info.is_image:
            frames = read_frames(self.path, background=self.background, planar=planar)
        else:
            begin = self.start + float(first / self.fps)
            frames = read_frames(
                self.path, fps=self.fps, start=begin, end=self.end, planar=planar, background=self.background
            )
        for number, frame in enumerate(frames, first):
            if (stop is not None and number >= stop) or (self.still and number >= 1):
                return
            yield frame if planar else self.framing.apply(frame)

    def play(self, total: int, mode: str, planar: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Up to `total` (index, frame) pairs; `mode` says how the sequence continues after the last frame.

        bounce plays back and forth, loop restarts, freeze repeats the last frame, cut ends there. `planar`: see
        `frames`.
        """
        number, frame = -1, None
        for number, frame in enumerate(self.frames(0, total, planar)):
            yield number, frame
        count = number + 1
        if frame is None or (mode == "cut" and not self.still):
            return
        frozen = self.still or mode == "freeze" or count == 1
        order = self._freeze(count - 1, frame) if frozen else self._repeat(count, mode, planar)
        for _, item in zip(range(total - count), order, strict=False):
            yield item

    def order(self, total: int, mode: str, count: int) -> Iterator[int]:
        """The frame indices of `play`, for a source of `count` frames, without decoding."""
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

    def _repeat(self, count: int, mode: str, planar: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Endless frames after the first pass of `count` frames."""
        while True:
            if mode == "bounce":
                yield from self._reverse(count - 1, planar)
            first = 1 if mode == "bounce" else 0
            yield from enumerate(self.frames(first, count, planar), first)

    def _reverse(self, stop: int, planar: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Frames stop - 1 down to 0, read in chunks of at most BACKWARD_BYTES."""
        chunk = max(2, BACKWARD_BYTES // (self.size[0] * self.size[1] * 3))
        while stop > 0:
            first = max(0, stop - chunk)
            yield from reversed(list(enumerate(self.frames(first, stop, planar), first)))
            stop = first
