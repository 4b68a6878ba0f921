"""Composites a generated face crop into its frame: mask, color matching and blending."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from preprocessing.errors import UsageError

if TYPE_CHECKING:
    from inference.generator.generation import GeneratedFrame

BLENDS = ("feather", "multiband", "poisson", "none")

# Masks are drawn in the units of a 96-pixel crop, where the center of pixel j is at j.
_UNITS = 96
_PYRAMID_LEVELS = 5
_PYRAMID_MARGIN = 16  # pixels around the mask for its Gaussian pyramid to fall off
_MAX_ENLARGEMENT = 8.0  # of a crop before the warp; beyond that it is blurred anyway
_MIN_POISSON_SIDE = 16  # pixels; seamlessClone erodes its mask, and a smaller one would vanish

_MATCH_SIDE = 48  # colors are measured on crops downsampled to this size, so that detail and noise do not add contrast
_MAX_GAIN = 1.25
_MAX_SHIFT = 20.0  # levels of 255, at the ring's mean
_STD_PRIOR = 2.0  # levels added to both deviations, so that a flat ring gives a gain of 1, not a ratio of noise

_INVERSE = cv2.WARP_INVERSE_MAP

_Blender = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Jaw:
    """A superellipse around mouth, cheeks and chin; `top` is the first generated row (units of 96)."""

    top: float
    center: tuple[float, float]
    half_width: float
    half_height: float  # measured from the center down; the ellipse's upper half is cut off by `top`
    power: float


_JAWS = {
    "points": _Jaw(top=40.0, center=(47.5, 54.0), half_width=38.0, half_height=41.0, power=2.0),
    "box": _Jaw(top=50.0, center=(47.5, 60.0), half_width=43.0, half_height=35.0, power=2.2),
}


def _ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """Raised cosine: 0 for distance <= 0, 1 for distance >= width."""
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(distance / width, 0.0, 1.0))


def _depth(jaw: _Jaw, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance inside the jaw line, negative outside (first order: (1 - r) / |grad r| for the superellipse norm r)."""
    u = np.abs(x - jaw.center[0]) / jaw.half_width
    v = np.abs(y - jaw.center[1]) / jaw.half_height
    radius = np.maximum((u**jaw.power + v**jaw.power) ** (1 / jaw.power), 1e-6)
    along_x = (u / radius) ** (jaw.power - 1) / jaw.half_width
    along_y = (v / radius) ** (jaw.power - 1) / jaw.half_height
    return (1.0 - radius) / np.maximum(np.hypot(along_x, along_y), 1e-6)


def crop_mask(kind: str, size: int, feather: float = 0.1) -> np.ndarray:
    """The soft mask of a crop geometry, float32 (size, size) in 0..1: 1 on mouth, cheeks and chin, 0 elsewhere.

    `kind` is "points" or "box" (see CropGeometry); `feather` is the width of the soft edge as a fraction of the crop's
    side, in (0, 0.25]; the upper edge, close above the lip, is half as wide. The mask is exactly 0 on the crop's border
    and above row 40 of 96 ("points": the first generated row) or 50 of 96 ("box": 48 is, but cuts the nose).
    Raises UsageError for another kind, a size under 16 or a feather out of range.
    """
    if kind not in _JAWS:
        raise UsageError(f"unknown crop kind {kind!r}: choose one of {', '.join(_JAWS)}")
    if size < 16:
        raise UsageError(f"a crop of {size} pixels is too small to mask: give at least 16")
    if not 0.0 < feather <= 0.25:
        raise UsageError(f"feather is {feather}, but must be above 0 and at most 0.25 (a fraction of the crop's side)")
    jaw, width = _JAWS[kind], feather * _UNITS
    units = (np.arange(size) + 0.5) * (_UNITS / size) - 0.5
    y, x = units[:, None], units[None, :]
    mask = _ramp(_depth(jaw, x, y), width) * _ramp(y - (jaw.top - 0.5), width / 2)  # row 40 begins at 39.5
    mask[[0, -1]] = 0.0
    mask[:, [0, -1]] = 0.0
    return mask.astype(np.float32)


class ColorMatcher:
    """Matches the colors of a generated crop to the original, measured on a ring around the mask.

    Both images show the same skin there. Each channel gets one gain and one offset (Reinhard et al. 2001, "Color
    Transfer between Images", in BGR), averaged over time to avoid flicker. Call `reset` at a cut.
    """

    def __init__(self, mask: np.ndarray, momentum: float = 0.9) -> None:
        """`mask` is float32 (S, S) in 0..1; `momentum` in [0, 1) is the weight of the past in the running average."""
        if not 0.0 <= momentum < 1.0:
            raise UsageError(f"momentum is {momentum}, but must be at least 0 and below 1")
        self._side = min(_MATCH_SIDE, mask.shape[0])
        self._ring = _ring(_reduce(mask, self._side))
        self._momentum = momentum
        self.reset()

    def reset(self) -> None:
        """Discards the running average: the next crop is the first of its shot."""
        self._seen = 0
        self._gain = np.ones(3)
        self._offset = np.zeros(3)

    def match(self, generated: np.ndarray, original: np.ndarray) -> np.ndarray:
        """Color-matched `generated`; all three are float32 (S, S, 3), BGR, 0..255 (the result may exceed the range)."""
        gain, offset = self._measure(generated, original)
        # A plain mean over the first frames, so that the first, noisy one is not overweighted by 1 / (1 - momentum).
        rate = max(1.0 - self._momentum, 1.0 / (self._seen + 1))
        self._gain += rate * (gain - self._gain)
        self._offset += rate * (offset - self._offset)
        self._seen += 1
        return cv2.transform(generated, np.column_stack([np.diag(self._gain), self._offset]))

    def _measure(self, generated: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gain (3,) and offset (3,) that match the ring's mean and deviation to the original's, within the limits."""
        source = _reduce(generated, self._side)[self._ring]
        target = _reduce(original, self._side)[self._ring]
        inliers = _inliers(source - target)
        source, target = source[inliers], target[inliers]
        gain = (target.std(axis=0) + _STD_PRIOR) / (source.std(axis=0) + _STD_PRIOR)
        gain = np.clip(gain, 1 / _MAX_GAIN, _MAX_GAIN)
        mean = source.mean(axis=0)
        shift = np.clip(target.mean(axis=0) - mean, -_MAX_SHIFT, _MAX_SHIFT)
        return gain, mean * (1.0 - gain) + shift


def _reduce(image: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float64)


def _ring(mask: np.ndarray) -> np.ndarray:
    """The mask's soft edge and two pixels around it, except above it, where rows may be the original's."""
    inside = mask > 0.02
    near = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    ring = near & (mask < 0.98)
    ring[: int(np.argmax(inside.any(axis=1)))] = False
    return ring


def _inliers(difference: np.ndarray) -> np.ndarray:
    """(N,) bool: differences (N, 3) within 3 robust deviations of the median; excludes a moved chin or hair edge."""
    distance = np.abs(difference - np.median(difference, axis=0))
    limit = 3 * 1.4826 * np.median(distance, axis=0) + 1.0
    inliers = (distance <= limit).all(axis=1)
    return inliers if inliers.sum() >= 0.25 * len(inliers) else np.ones_like(inliers)


def composite(
    frame: np.ndarray, generated: np.ndarray, matrix: np.ndarray, mask: np.ndarray, blend: str = "feather"
) -> np.ndarray:
    """Composites a crop into a new frame, uint8 (H, W, 3), bit-identical to `frame` wherever the mask is 0.

    `generated` is float32 (S, S, 3), BGR, 0..255; `mask` float32 (S, S) in 0..1, 0 on its border. `matrix`, 2x3, takes
    frame coordinates to crop coordinates (pixel centers at integers) and may rotate and scale x and y independently.
    Parts outside the frame are ignored. `blend` is one of BLENDS:

    * feather: alpha blending with the mask.
    * multiband: Laplacian pyramids (Burt and Adelson 1983); low frequencies are blended over a wider edge than detail.
    * poisson: gradients of the crop, brightness of the frame (Perez et al. 2003, cv2.seamlessClone). Falls back to
      feather if the masked region touches the frame's border or is under 16 pixels.
    * none: the whole square with hard edges, for comparison; only pixels outside the crop's quadrilateral are kept.

    Multiband and Poisson change pixels beyond the mask; they fade back to the frame with 1 - (1 - mask)^2.
    Raises UsageError for an unknown blend, a mask whose size differs from the crop's, or a singular matrix.
    """
    _check(generated, matrix, mask, blend)
    if blend == "none":
        mask = np.ones_like(mask)
    result = frame.copy()
    area = _area(matrix, mask, frame.shape[:2], margin=_PYRAMID_MARGIN if blend == "multiband" else 1)
    if area is None:
        return result
    part = result[area]
    matrix = matrix + np.outer(matrix[:, :2] @ (area[1].start, area[0].start), (0, 0, 1))  # from part to crop
    patch, alpha = _to_frame(part, generated, matrix, mask, hard=blend == "none")
    patch, weight = _BLENDERS[blend](part, patch, alpha)
    change = cv2.subtract(patch, part, dtype=cv2.CV_32F)
    cv2.multiply(change, cv2.merge([weight] * 3), dst=change)
    cv2.add(part, change, dst=part, dtype=cv2.CV_8U)  # adds in float, rounds, saturates
    return result


def _check(generated: np.ndarray, matrix: np.ndarray, mask: np.ndarray, blend: str) -> None:
    if blend not in BLENDS:
        raise UsageError(f"unknown blend {blend!r}: choose one of {', '.join(BLENDS)}")
    if generated.shape[:2] != mask.shape:
        raise UsageError(
            f"the mask is {mask.shape} but the generated crop {generated.shape[:2]}: their sizes must match"
        )
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        raise UsageError(f"the crop matrix is singular: {np.asarray(matrix).tolist()}")


def _area(matrix: np.ndarray, mask: np.ndarray, shape: tuple[int, ...], margin: int) -> tuple[slice, slice] | None:
    """Bounding rows and columns of the non-zero mask in the frame, plus a margin; None if outside the frame."""
    x, y, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
    left, top, right, bottom = x - 1, y - 1, x + width, y + height  # interpolation reaches one crop pixel further
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) - matrix[:, 2]
    corners = corners @ np.linalg.inv(matrix[:, :2]).T
    limits = (shape[1], shape[0])
    low = np.clip(np.floor(corners.min(axis=0)) - margin, 0, limits).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 1 + margin, 0, limits).astype(int)
    return (slice(low[1], high[1]), slice(low[0], high[0])) if (high > low).all() else None


def _to_frame(
    part: np.ndarray, generated: np.ndarray, matrix: np.ndarray, mask: np.ndarray, hard: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Crop (h, w, 3) and mask (h, w), float32, resampled at `part`'s pixels; outside the crop the result is `part`."""
    size = part.shape[1::-1]
    alpha = cv2.warpAffine(mask, matrix, size, flags=_INVERSE | (cv2.INTER_NEAREST if hard else cv2.INTER_LINEAR))
    generated, matrix, sampling = _to_scale(generated, matrix)
    # TRANSPARENT also skips the outermost half pixel of the crop, where every soft mask is 0.
    border = cv2.BORDER_REPLICATE if hard else cv2.BORDER_TRANSPARENT
    patch = part.astype(np.float32)
    cv2.warpAffine(generated, matrix, size, dst=patch, flags=_INVERSE | sampling, borderMode=border)
    return patch, alpha


def _to_scale(generated: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The crop resized to the frame's scale, its matrix, and the interpolation for the remaining warp.

    A finer crop is area-averaged to avoid aliasing. A coarser one is enlarged by cv2.resize, whose positions are exact:
    warpAffine rounds them to 1/32 pixel, which should be a pixel of the frame, not of the crop.
    """
    scale = np.linalg.norm(np.linalg.inv(matrix[:, :2]), axis=0)  # frame pixels per crop pixel, along x and y
    if scale.min() > 2 / 3 and scale.max() < 1.5:
        return generated, matrix, cv2.INTER_CUBIC
    enlarge = scale.min() > 1.0
    side = generated.shape[0]
    width, height = (max(round(side * min(s, _MAX_ENLARGEMENT)), 1) for s in scale)
    resized = cv2.resize(generated, (width, height), interpolation=cv2.INTER_CUBIC if enlarge else cv2.INTER_AREA)
    half = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5]])  # from a pixel's center to its corner
    matrix = (matrix + half) * np.array([[width / side], [height / side]]) - half
    return resized, matrix, cv2.INTER_LINEAR if enlarge else cv2.INTER_CUBIC


def _fade(alpha: np.ndarray) -> np.ndarray:
    """Weight of a blend that extends beyond the mask: near 1 from the middle of the edge on, 0 where the mask is 0."""
    return alpha * (2.0 - alpha)


def _feather(part: np.ndarray, patch: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return patch, alpha


def _multiband(part: np.ndarray, patch: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collapses the Laplacian pyramid of the change, each level weighted by the mask's Gaussian pyramid.

    The pyramids are linear, so the blend of two images is the first plus the weighted pyramid of their difference.
    """
    change = patch - part
    bands: list[np.ndarray] = []
    weights = [alpha]
    while len(bands) < _PYRAMID_LEVELS - 1 and min(change.shape[:2]) >= 8:
        coarse = cv2.pyrDown(change)
        bands.append(change - cv2.pyrUp(coarse, dstsize=change.shape[1::-1]))
        weights.append(cv2.pyrDown(weights[-1]))
        change = coarse
    change = change * weights.pop()[..., None]
    for band, weight in zip(reversed(bands), reversed(weights), strict=True):
        change = cv2.pyrUp(change, dstsize=band.shape[1::-1]) + band * cv2.merge([weight] * 3)
    return change + part, _fade(alpha)


def _poisson(part: np.ndarray, patch: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    region = (alpha > 0).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(region)
    inside = x > 0 and y > 0 and x + width < region.shape[1] and y + height < region.shape[0]
    if not inside or min(width, height) < _MIN_POISSON_SIDE:
        return _feather(part, patch, alpha)
    source = np.rint(patch).clip(0, 255).astype(np.uint8)
    # seamlessClone puts the middle of the mask's bounding box at this point: the same middle keeps the patch in place.
    middle = (x + width // 2, y + height // 2)
    cloned = cv2.seamlessClone(source, part, region * 255, middle, cv2.NORMAL_CLONE)
    return cloned.astype(np.float32), _fade(alpha)


_BLENDERS: dict[str, _Blender] = {"feather": _feather, "multiband": _multiband, "poisson": _poisson, "none": _feather}


class FaceCompositor:
    """Composites generated faces into their frames, with color matching."""

    def __init__(self, kind: str, blend: str) -> None:
        """`kind` is the crop geometry's, "points" or "box"; `blend` is one of BLENDS."""
        self._kind, self._blend = kind, blend
        self._matcher = ColorMatcher(_mask(kind, 96))
        self._shot = -1

    def composite(self, item: GeneratedFrame) -> np.ndarray:
        """The output frame, (H, W, 3) uint8 BGR."""
        if item.crop is None or item.face is None:
            return item.frame
        if item.shot != self._shot:
            self._shot = item.shot
            self._matcher.reset()
        face = self._matcher.match(item.face, item.crop.pixels.astype(np.float32))
        mask = _mask(self._kind, face.shape[0])
        if item.presence < 1:
            mask = mask * np.float32(item.presence)
        return composite(item.frame, face, item.crop.matrix, mask, self._blend)


@lru_cache(maxsize=64)
def _mask(kind: str, side: int) -> np.ndarray:
    return crop_mask(kind, side)
