"""A person's frames in any order: uncompressed in an unnamed temporary file, so that memory stays flat."""

from __future__ import annotations

import os
import tempfile

import numpy as np

MAX_BYTES = 2**30  # 54 s of 512x512 or 15 s of 1280x720 pixels at 25 fps


class FrameStore:
    """Frames of one size, appended and then read by number from any thread; the file disappears with the store."""

    def __init__(self, size: tuple[int, int]) -> None:
        """`size`: width and height."""
        self.size = size
        self._file = tempfile.TemporaryFile(prefix="wav2lip-frames-")  # noqa: SIM115  closed by close()
        self._count = 0

    @property
    def frame_bytes(self) -> int:
        """Size of one frame."""
        return self.size[0] * self.size[1] * 3

    @property
    def capacity(self) -> int:
        """Number of frames that fit into `MAX_BYTES`."""
        return max(1, MAX_BYTES // self.frame_bytes)

    def __len__(self) -> int:
        return self._count

    def append(self, frame: np.ndarray) -> None:
        """Appends an (H, W, 3) uint8 frame."""
        assert frame.shape == (self.size[1], self.size[0], 3)
        self._file.write(np.ascontiguousarray(frame).data)
        self._file.flush()
        self._count += 1

    def __getitem__(self, number: int) -> np.ndarray:
        """A copy of a frame, (H, W, 3) uint8."""
        if not 0 <= number < self._count:
            raise IndexError(f"frame {number} of {self._count}")
        frame = np.empty((self.size[1], self.size[0], 3), np.uint8)
        os.preadv(self._file.fileno(), [frame.data], number * self.frame_bytes)
        return frame

    def close(self) -> None:
        """Removes the file."""
        self._file.close()


def bounced(position: int, count: int) -> int:
    """The frame shown at a position of a video of `count` frames that plays forwards and backwards without end."""
    if count < 2:
        return 0
    position %= 2 * (count - 1)
    return position if position < count else 2 * (count - 1) - position
