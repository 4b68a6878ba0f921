"""How a recording is turned and mirrored to be shown upright."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """A counterclockwise rotation of 0, 90, 180 or 270 degrees, then left-right mirroring."""

    rotation: int = 0
    mirrored: bool = False

    @property
    def turned(self) -> bool:
        """Whether width and height are exchanged."""
        return self.rotation % 180 != 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) to an upright, contiguous array."""
        image = np.rot90(image, self.rotation // 90)
        return np.ascontiguousarray(image[:, ::-1] if self.mirrored else image)


# The eight values of the EXIF tag 0x0112.
EXIF = {
    1: Orientation(), 2: Orientation(0, True), 3: Orientation(180), 4: Orientation(180, True),
    5: Orientation(270, True), 6: Orientation(270), 7: Orientation(90, True), 8: Orientation(90),
}  # fmt: skip


def frame_orientation(frame: Any) -> Orientation:
    """The orientation that the display matrix of a decoded `av.VideoFrame` asks for."""
    try:
        side_data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know the type of some other side data
        return Orientation(round(frame.rotation / 90) * 90 % 360)
    return Orientation() if side_data is None else from_matrix(np.frombuffer(bytes(side_data), np.int32))


def from_matrix(matrix: np.ndarray) -> Orientation:
    """The orientation of a display matrix (9,), a b u c d v x y w, with x' = a x + c y and y' = b x + d y.

    ISO/IEC 14496-12, 6.2.2; y points down. A matrix with a negative determinant mirrors.
    """
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    mirrored = a * d - b * c < 0
    if mirrored:
        a = -a
    return Orientation(round(-math.degrees(math.atan2(b, a)) / 90) * 90 % 360, mirrored)
