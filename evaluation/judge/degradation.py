"""Worse and worse pictures of the same mouth: what a judge of sync should see through, and what it cannot see."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from preprocessing.dataset.augmentation import ImageTransform

Change = Callable[[np.ndarray, float], np.ndarray]
"""(N, S, S, 3) uint8 BGR and the pixels of S that show a pixel of a points crop of 128, to the same shape."""

BLURS, SHIFTS = (1, 2, 4), (1, 2, 4)  # pixels of a crop of 128
QUALITIES = (50, 20, 10)
PARTS = (2, 4)  # by which width and height are divided


def ladder() -> dict[str, Change]:
    """By name, the changes of pictures, each kind from mild to strong."""
    blurs = {f"blur, sigma {sigma} px": _seen(blur=sigma) for sigma in BLURS}
    jpegs = {f"JPEG, quality {quality}": _compressed(quality) for quality in QUALITIES}
    shifts = {f"crop moved by {pixels} px": _moved(pixels) for pixels in SHIFTS}
    return blurs | jpegs | shifts | {f"1/{part} of the resolution": _coarse(part) for part in PARTS}


def _seen(blur: float) -> Change:
    """A Gaussian blur whose sigma is given in pixels of a crop of 128."""
    return lambda pictures, scale: ImageTransform(blur=blur * scale).apply_photometric(pictures)


def _compressed(quality: int) -> Change:
    return lambda pictures, _: ImageTransform(quality=quality).apply_photometric(pictures)


def _moved(pixels: float) -> Change:
    """The face moved right and down, each by so many pixels; where it came from its edge is repeated."""

    def change(pictures: np.ndarray, scale: float) -> np.ndarray:
        shift = np.array([[1, 0, pixels * scale], [0, 1, pixels * scale]])
        size = pictures.shape[2], pictures.shape[1]
        return np.stack([cv2.warpAffine(each, shift, size, borderMode=cv2.BORDER_REPLICATE) for each in pictures])

    return change


def _coarse(part: int) -> Change:
    """Averaged down and enlarged again, bilinearly."""

    def change(pictures: np.ndarray, scale: float) -> np.ndarray:
        whole = pictures.shape[2], pictures.shape[1]
        size = tuple(max(1, round(side / (part * scale))) for side in whole)
        size = min(size[0], whole[0]), min(size[1], whole[1])
        small = [cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in pictures]
        return np.stack([cv2.resize(each, whole, interpolation=cv2.INTER_LINEAR) for each in small])

    return change
