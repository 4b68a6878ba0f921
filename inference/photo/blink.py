"""Blinks: draws the upper lids over the eyes by stretching the skin between lid and brow."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.faces.eyelids import Eyelids

LID = 0.4  # of the eye's width: height of the skin above the margin that is stretched
LASHES = 0.1  # of that height: what moves without being stretched
OVERLAP = 0.055  # of the eye's width by which the upper lid passes the lower one's margin
REACH = 0.15  # of the eye's width around it that is looked at


@dataclass(frozen=True)
class _Eye:
    """An eye's pixels in a picture: `box` is top, bottom, left, right; the rest are (h, w) in the eye's widths."""

    box: tuple[int, int, int, int]
    v: np.ndarray
    margin: np.ndarray
    drop: np.ndarray
    lids: Eyelids

    @classmethod
    def of(cls, lids: Eyelids, size: tuple[int, int]) -> _Eye:
        """`size`: height and width of the picture."""
        low, high = np.array([-REACH, -LID - 0.5 - REACH]), np.array([1 + REACH, 0.5])
        ends = [lids.outer + u * lids.along + v * lids.down for u in (low[0], high[0]) for v in (low[1], high[1])]
        left, top = np.maximum(np.floor(np.min(ends, 0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(np.max(ends, 0)).astype(int) + 1, size[::-1])
        x, y = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
        offset, width = np.stack([x, y], -1) - lids.outer, float(lids.along @ lids.along)
        u, v = offset @ lids.along / width, offset @ lids.down / width
        margin = lids.upper_margin(u)
        drop = np.maximum(lids.lower_margin(u) + OVERLAP * np.sign(lids.lower_margin(u) - margin) - margin, 0)
        return cls((int(top), int(bottom), int(left), int(right)), v, margin, drop, lids)


class Blinker:
    """Shuts the eyes of one photo."""

    def __init__(self, lids: tuple[Eyelids, Eyelids], size: tuple[int, int]) -> None:
        """
        Args:
            size: height and width of the picture.
        """
        self._eyes = [_Eye.of(one, size) for one in lids]

    def shut(self, picture: np.ndarray, closure: float) -> np.ndarray:
        """A new picture with the upper lids drawn down.

        Args:
            picture: (H, W, 3) uint8, the photo; its mouth may have been changed.
            closure: 0, as in the photo, to 1, shut.
        """
        result = picture.copy()
        for eye in self._eyes:
            top, bottom, left, right = eye.box
            result[top:bottom, left:right] = _closed(picture[top:bottom, left:right], eye, closure)
        return result


def _closed(pixels: np.ndarray, eye: _Eye, closure: float) -> np.ndarray:
    """The skin above the margin, stretched down, over the eye, which stays where it is."""
    drop = closure * eye.drop
    source = _source(eye, drop)
    up = source - eye.v
    width = float(np.hypot(*eye.lids.along))
    direction = eye.lids.down
    rows, columns = np.indices(eye.v.shape)
    skin = cv2.remap(pixels, (columns + up * direction[0]).astype(np.float32),
                     (rows + up * direction[1]).astype(np.float32), cv2.INTER_CUBIC,
                     borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    cover = np.clip((eye.margin + drop - eye.v) * width + 0.5, 0, 1)[..., None]
    return np.rint(cover * skin + (1 - cover) * pixels).astype(np.uint8)


def _source(eye: _Eye, drop: np.ndarray) -> np.ndarray:
    """v of the skin that lies at v when the margin has dropped.

    Skin whose height above the margin is h, from the lashes, 0, to the brow, 1, drops by (1 - h)² of what the margin
    does: most of it is taken from the lid, and the brow stays. This solves the quadratic equation for h.
    """
    height, reach = (eye.margin - eye.v) / LID, drop / LID
    rise = height + reach  # above the dropped margin
    free, above = 1 - LASHES, rise - LASHES
    linear = free + 2 * reach
    root = np.sqrt(np.maximum(linear**2 - 4 * reach * above, 0))
    stretched = LASHES + free * 2 * above / (linear + root)
    found = np.where(rise < LASHES, rise, np.where(height > 1, height, stretched))
    return eye.margin - LID * found
