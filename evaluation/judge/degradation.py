"""Image degradations of increasing strength that a sync judge should be robust to."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from preprocessing.dataset.augmentation import ImageTransform

Degradation = Callable[[np.ndarray, float], np.ndarray]
"""Maps (N, S, S, 3) uint8 BGR and the scale of these frames, relative to a 128-pixel points crop, to the same shape."""

BLURS, SHIFTS = (1, 2, 4), (1, 2, 4)  # pixels of a 128-pixel crop
QUALITIES = (50, 20, 10)
FACTORS = (2, 4)  # reduction of width and height


def degradations() -> dict[str, Degradation]:
    """Degradations by name, each kind from mild to strong."""
    blurs = {f"blur, sigma {sigma} px": _blur(sigma) for sigma in BLURS}
    jpegs = {f"JPEG, quality {quality}": _compress(quality) for quality in QUALITIES}
    shifts = {f"crop moved by {pixels} px": _shift(pixels) for pixels in SHIFTS}
    return blurs | jpegs | shifts | {f"1/{factor} of the resolution": _downsample(factor) for factor in FACTORS}


def _blur(sigma: float) -> Degradation:
    """Gaussian blur with sigma in pixels of a 128-pixel crop."""
    return lambda frames, scale: ImageTransform(blur=sigma * scale).apply_photometric(frames)


def _compress(quality: int) -> Degradation:
    return lambda frames, _: ImageTransform(quality=quality).apply_photometric(frames)


def _shift(pixels: float) -> Degradation:
    """Shift the face right and down by this many pixels each, replicating the border."""

    def degrade(frames: np.ndarray, scale: float) -> np.ndarray:
        shift = np.array([[1, 0, pixels * scale], [0, 1, pixels * scale]])
        size = frames.shape[2], frames.shape[1]
        return np.stack([cv2.warpAffine(each, shift, size, borderMode=cv2.BORDER_REPLICATE) for each in frames])

    return degrade


def _downsample(factor: int) -> Degradation:
    """Area-average down and upsample bilinearly."""

    def degrade(frames: np.ndarray, scale: float) -> np.ndarray:
        full = frames.shape[2], frames.shape[1]
        size = tuple(max(1, round(side / (factor * scale))) for side in full)
        size = min(size[0], full[0]), min(size[1], full[1])
        small = [cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in frames]
        return np.stack([cv2.resize(each, full, interpolation=cv2.INTER_LINEAR) for each in small])

    return degrade
