"""Frames that stay as the decoder gives them, in 4:2:0 planes: only the regions that are looked at become BGR.

Where a mouth is generated, a small part of a frame changes. Converting a whole frame to BGR and back takes longer than
decoding it, and rounds every pixel; so the planes go to the encoder as they are, except where pixels changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import cv2
import numpy as np

from preprocessing.media.color_conversion import LUMA, ColorTags, color_tags, fitted, is_hdr, yuv_to_bgr

FORMATS = {"yuv420p": False, "yuvj420p": True}  # pixel format → whether it always has full range


class PlanarFrame:
    """An 8-bit 4:2:0 frame of even size that behaves like a read-only uint8 BGR array (H, W, 3).

    `frame[rows, columns]` and `np.asarray(frame)` convert to BGR; slices have no step.

    Attributes:
        planes: (H * 3 / 2, W) uint8: Y, then U and V at half the resolution, the layout of raw yuv420p.
        luma, chroma: views of the planes: (H, W), and U and V, (H / 2, W / 2) each.
        to_bgr: (3, 4) affine map from Y, U, V to B, G, R, see `yuv_to_bgr`.
        shape: (H, W, 3).
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, planes: np.ndarray, to_bgr: np.ndarray) -> None:
        self.planes, self.to_bgr = planes, to_bgr
        height, width = planes.shape[0] * 2 // 3, planes.shape[1]
        self.shape = (height, width, 3)
        chroma = planes[height:].reshape(2, height // 2, width // 2)
        self.luma, self.chroma = planes[:height], (chroma[0], chroma[1])

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        """The BGR pixels of a region."""
        (top, bottom), (left, right) = _span(index[0], self.shape[0]), _span(index[1], self.shape[1])
        if top >= bottom or left >= right:
            return np.zeros((max(bottom - top, 0), max(right - left, 0), 3), np.uint8)
        # Two more chroma samples on each side, as far as there are any, make the result independent of the region.
        first_y, first_x = max(top // 2 - 2, 0), max(left // 2 - 2, 0)
        last_y, last_x = (bottom + 1) // 2 + 2, (right + 1) // 2 + 2
        chroma = [plane[first_y:last_y, first_x:last_x] for plane in self.chroma]
        size = (2 * chroma[0].shape[1], 2 * chroma[0].shape[0])
        rows, columns = slice(top - 2 * first_y, bottom - 2 * first_y), slice(left - 2 * first_x, right - 2 * first_x)
        full = [cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC)[rows, columns] for plane in chroma]
        return cv2.transform(cv2.merge([self.luma[top:bottom, left:right], *full]), self.to_bgr)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:, :]
        return whole if dtype is None else whole.astype(dtype)

    def copy(self) -> PlanarFrame:
        """A frame with planes of its own."""
        return PlanarFrame(self.planes.copy(), self.to_bgr)

    def reduced(self, rows: slice, columns: slice, width: int, height: int) -> np.ndarray:
        """The region, reduced to (height, width, 3) BGR by averaging; the planes are reduced before the conversion."""
        (top, bottom), (left, right) = _span(rows, self.shape[0]), _span(columns, self.shape[1])
        chroma = [plane[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2] for plane in self.chroma]
        small = [_reduced(plane, width, height) for plane in (self.luma[top:bottom, left:right], *chroma)]
        return cv2.transform(cv2.merge(small), self.to_bgr)

    def sampled(self, step: int) -> PlanarFrame:
        """Every `step`th pixel each way, if at least 128 remain of both sides; else the frame itself."""
        height, width = (side // (2 * step) * 2 for side in self.shape[:2])
        if min(height, width) < 128:
            return self
        parts = [
            plane[: step * h : step, : step * w : step].ravel()
            for plane, (h, w) in zip(
                (self.luma, *self.chroma), ((height, width), *[(height // 2, width // 2)] * 2), strict=True
            )
        ]
        return PlanarFrame(np.concatenate(parts).reshape(height * 3 // 2, width), self.to_bgr)

    def paste(self, top: int, left: int, before: np.ndarray, after: np.ndarray) -> None:
        """Writes the pixels in which two BGR images of a region, (h, w, 3), differ; all others stay as they are.

        Args:
            top, left: the region's corner, both even; h and w are even, too.
            before, after: the region as it was and as it shall be.
        """
        changed = cv2.bitwise_not(cv2.inRange(cv2.absdiff(before, after), (0, 0, 0), (0, 0, 0)))
        x, y, width, height = cv2.boundingRect(changed)
        if not width:
            return
        x, y, width, height = x // 2 * 2, y // 2 * 2, (x % 2 + width + 1) // 2 * 2, (y % 2 + height + 1) // 2 * 2
        part = np.s_[y : y + height, x : x + width]
        luma, *chroma = cv2.split(cv2.transform(after[part], _inverse(self.to_bgr)))
        cv2.copyTo(luma, changed[part], self.luma[top + y : top + y + height, left + x : left + x + width])
        half, (row, column) = (width // 2, height // 2), ((top + y) // 2, (left + x) // 2)
        spread = cv2.dilate(changed[part], np.ones((2, 2), np.uint8), anchor=(0, 0))  # each 2x2 block's first pixel
        touched = cv2.resize(spread, half, interpolation=cv2.INTER_NEAREST)
        for plane, values in zip(self.chroma, chroma, strict=True):
            target = plane[row : row + half[1], column : column + half[0]]
            cv2.copyTo(cv2.resize(values, half, interpolation=cv2.INTER_AREA), touched, target)


def _span(part: slice, side: int) -> tuple[int, int]:
    first, last, _ = part.indices(side)
    return first, last


def _reduced(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """A plane averaged to (height, width); halving first is several times as fast as averaging in one step."""
    while plane.shape[0] >= 4 * height and plane.shape[1] >= 4 * width:
        plane = plane[: plane.shape[0] // 2 * 2, : plane.shape[1] // 2 * 2]
        plane = cv2.resize(plane, (plane.shape[1] // 2, plane.shape[0] // 2), interpolation=cv2.INTER_AREA)
    larger = plane.shape[0] >= height and plane.shape[1] >= width
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA if larger else cv2.INTER_LINEAR)


def _inverse(to_bgr: np.ndarray) -> np.ndarray:
    """The (3, 4) map back from B, G, R to Y, U, V."""
    turn = np.linalg.inv(to_bgr[:, :3])
    return np.hstack([turn, -turn @ to_bgr[:, 3:]])


def is_planar(frame: av.VideoFrame) -> bool:
    """Whether a decoded frame can become a `PlanarFrame`."""
    even = frame.width % 2 == 0 and frame.height % 2 == 0
    return even and frame.format.name in FORMATS and color_tags(frame).colorspace in LUMA and not is_hdr(frame)


def as_planar(frame: av.VideoFrame, tags: ColorTags, size: tuple[int, int], count: int = 1) -> Iterator[Any]:
    """Yields a decoded frame `count` times as a `PlanarFrame`.

    A frame of another pixel format or size than the video's is converted.

    Args:
        tags: color tags of the video.
        size: width and height of the video.
    """
    if is_planar(frame) and (frame.width, frame.height) == size:
        planar = _copied(frame)
    else:
        planar = planar_from_bgr(fitted(frame, size, size), yuv_to_bgr(tags.colorspace, tags.color_range == "pc"))
    yield from (planar.copy() for _ in range(count - 1))
    yield planar


def _copied(frame: av.VideoFrame) -> PlanarFrame:
    """Copies the planes of a decoded frame."""
    height, width = frame.height, frame.width
    planes = np.empty((height * 3 // 2, width), np.uint8)
    parts = (planes[:height], *planes[height:].reshape(2, height // 2, width // 2))
    for part, plane in zip(parts, frame.planes, strict=True):
        part[:] = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    full = color_tags(frame).color_range == "pc" or FORMATS[frame.format.name]
    return PlanarFrame(planes, yuv_to_bgr(color_tags(frame).colorspace, full))


def planar_from_bgr(image: np.ndarray, to_bgr_map: np.ndarray) -> PlanarFrame:
    """A uint8 BGR image (H, W, 3) of even size as planes; the map is `PlanarFrame.to_bgr`."""
    height, width = image.shape[:2]
    yuv = cv2.transform(image, _inverse(to_bgr_map))
    half = cv2.resize(yuv, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    parts = [yuv[..., 0].ravel(), half[..., 1].ravel(), half[..., 2].ravel()]
    return PlanarFrame(np.concatenate(parts).reshape(height * 3 // 2, width), to_bgr_map)
