"""The painter's view of a mouth: a head-fixed crop in the plane of the teeth.

Upper teeth belong to the skull, so in this crop they stay in place while the lips pass over them, whatever the head
does. The crop has the same number of pixels per unit for every face, and its place is chosen once for a person.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from wav2lip.renderer.inner_mouth import InnerMouth
from wav2lip.renderer.mouth_fill import coverage, opening_cover

WEIGHTS = Path(__file__).parents[1] / "weights" / "renderer.safetensors"
WIDTH, HEIGHT = 72, 40  # pixels
DENSITY = 2.0  # pixels per unit
ABOVE = 8  # rows above the origin
RIM = 1.2  # units around the opening that the painter may change
RIM_BLUR = 0.5  # units; softness of that border
EDGE = 3  # pixels over which the painted region ends at the border of the crop
MAX_REDUCTION = 1.5  # larger reductions of a frame are antialiased first
PLANES = {"target": 3, "composite": 3, "warped": 3, "source": 3, "reference": 3, "inner": 1, "lips": 1, "retrieved": 1}
"""Channels of a training sample by name, in storage order; all but the target are the network's input."""
INPUTS = tuple(name for name in PLANES if name != "target")
CHANNELS = sum(PLANES[name] for name in INPUTS)


def to_crop(plane: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(2, 3) map from crop pixels to the pixels of an image whose mouth plane is mapped by `plane` (2, 3)."""
    start = origin - np.array([(WIDTH - 1) / 2, ABOVE]) / DENSITY
    return np.column_stack([plane[:, :2] / DENSITY, plane[:, :2] @ start + plane[:, 2]])


def density(sampling: np.ndarray) -> float:
    """Image pixels per crop pixel of a (2, 3) map."""
    return float(np.sqrt(abs(np.linalg.det(sampling[:, :2]))))


def sample_crop(
    image: np.ndarray, sampling: np.ndarray, size: tuple[int, int], outside: int | None = None
) -> np.ndarray:
    """Samples an image at the pixels of a crop.

    Args:
        image: (H, W, 3) uint8.
        sampling: (2, 3) map from crop pixels to image pixels.
        size: width and height of the crop.
        outside: value beyond the image; None to repeat its border.

    Returns:
        (height, width, 3) uint8.
    """
    if (dense := density(sampling)) > MAX_REDUCTION:
        image, sampling = _reduced(image, sampling, dense / MAX_REDUCTION, size)
    border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, sampling, size, flags=flags, borderMode=border, borderValue=(outside or 0,) * 3)


def _reduced(
    image: np.ndarray, sampling: np.ndarray, factor: float, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image around the crop, shrunk, and the sampling map into it."""
    corners = np.array([[x, y, 1] for x in (0, size[0]) for y in (0, size[1])]) @ sampling.T
    low = np.clip(np.floor(corners.min(0) - 2 * factor).astype(int), 0, (image.shape[1] - 2, image.shape[0] - 2))
    high = np.clip(np.ceil(corners.max(0) + 2 * factor).astype(int), low + 2, image.shape[1::-1])
    part = image[low[1] : high[1], low[0] : high[0]]
    width, height = (max(1, round(length / factor)) for length in part.shape[1::-1])
    ratio = np.array([width / part.shape[1], height / part.shape[0]])
    moved = sampling.copy()
    moved[:, 2] -= low
    moved *= ratio[:, None]
    moved[:, 2] += (ratio - 1) / 2
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), moved


def from_image(points: np.ndarray, sampling: np.ndarray) -> np.ndarray:
    """(..., 2 or 3) image pixels → crop pixels; depths are rescaled."""
    linear = np.linalg.inv(sampling[:, :2])
    flat = (points[..., :2] - sampling[:, 2]) @ linear.T
    return np.concatenate([flat, points[..., 2:] / density(sampling)], axis=-1)


def mouth_masks(inner: np.ndarray, outer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(HEIGHT, WIDTH) float32 masks of opening and lips; (20, 2) rings in crop pixels."""
    return opening_cover(inner, inner / DENSITY, DENSITY, WIDTH, HEIGHT), coverage(outer, WIDTH, HEIGHT)


def paint_region(inner: np.ndarray) -> np.ndarray:
    """(HEIGHT, WIDTH) float32, where the painter may paint: the opening's mask and a soft rim, none at the border."""
    reach = 2 * round(RIM * DENSITY) + 1
    wide = cv2.dilate(inner, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    soft = cv2.GaussianBlur(wide, (0, 0), RIM_BLUR * DENSITY)
    rows, columns = (np.minimum(np.minimum(np.arange(n), np.arange(n)[::-1]) / EDGE, 1) for n in inner.shape)
    return (soft * rows[:, None] * columns).astype(np.float32)


def reference_crop(mouth: InnerMouth | None, origin: np.ndarray) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8 crop of a known mouth, black around it; black altogether for None."""
    if mouth is None:
        return np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return sample_crop(mouth.pixels, to_crop(mouth.plane, origin), (WIDTH, HEIGHT), outside=0)
