"""A bounded bank of inner mouths (teeth and tongue) from a person's own frames, filled from a stream.

A mouth is stored in a plane fixed to the head: canonical x and y near the depth of the inner lips. The upper teeth are
fixed to the skull, so in this plane they do not move while the lips pass over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TypeAlias

import cv2
import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, canonical_face
from wav2lip.renderer.lip_edges import lip_edges
from wav2lip.renderer.mouth_look import sample_look

UNITS_PER_DEGREE = 0.08  # units of shape difference per degree of yaw or pitch
HARDLY_OPEN = 2.6  # units; with a mouth known no further open than this, teeth are drawn
SKIN = (1.4, 1.55)  # times the outer lip ring, where skin is looked at
LIP_RIM = 1.5  # units of lip around the opening whose color tells the light
FEWEST = 8  # pixels inside the lips that tell sharpness and color
_TEETH_BEHIND_LIPS = 2.0  # units of depth


def mouth_plane(pose: HeadPose) -> np.ndarray:
    """(..., 2, 3) affine map from canonical x, y in the plane of the teeth to frame pixels."""
    plane = pose.scale[..., None, None] * pose.rotation[..., :2, :]
    plane[..., 2] = plane[..., 2] * _teeth_depth() + pose.translation[..., :2]
    return plane


@cache
def _teeth_depth() -> float:
    return float(canonical_face()[LIPS_INNER, 2].mean()) + _TEETH_BEHIND_LIPS


def to_mouth_plane(points: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """(..., 2 or 3) pixels → (..., 2) canonical units in the mouth plane."""
    return (points[..., :2] - plane[:, 2]) @ np.linalg.inv(plane[:, :2]).T


def gaps(ring: np.ndarray) -> np.ndarray:
    """(..., 20, 2) inner lip ring → (..., 9) opening heights, negative where the lips cross."""
    return ring[..., 1:10, 1] - ring[..., :10:-1, 1]


def teeth_place(ring: np.ndarray) -> np.ndarray:
    """(2,) the middle of the upper lip's inner edge; (20, 2) inner lip ring in the mouth plane."""
    return np.array([(ring[0, 0] + ring[10, 0]) / 2, ring[13:18, 1].mean()])


Covered: TypeAlias = Callable[[], bool]
"""Whether something is in front of a mouth; asked only where it matters, since it takes a network."""


@dataclass(frozen=True)
class InnerMouth:
    """One inner mouth of the bank.

    Attributes:
        number: running number of the observed frame; identifies the entry.
        pixels: (h, w, 3) uint8 crop of the frame.
        plane: (2, 3) map from canonical units in the mouth plane to crop pixels.
        ring: (20, 2) inner lip ring in the mouth plane, units.
        angles: (2,) yaw and pitch of the head, degrees.
        sharpness: variance of the Laplacian inside the lips.
        dark: (3,) mean BGR color of the darkest tenth of the pixels inside the lips.
        lips: (3,) mean BGR color of the lips around the opening.
        look: brightness on the grid of `mouth_look`.
        split: y in the mouth plane of the dark gap between upper and lower teeth; infinite if there is none, in which
            case everything visible moves with the head.
    """

    number: int
    pixels: np.ndarray
    plane: np.ndarray
    ring: np.ndarray
    angles: np.ndarray
    sharpness: float
    dark: np.ndarray
    lips: np.ndarray
    look: np.ndarray
    split: float = np.inf

    @cached_property
    def opening(self) -> float:
        """Mean opening height, units."""
        return float(np.maximum(gaps(self.ring), 0).mean())

    @cached_property
    def darkness(self) -> float:
        """Sum of the dark color's channels, levels."""
        return float(self.dark.sum())

    def descriptor(self) -> np.ndarray:
        """(42,) descriptor: ring (RMS, in units) and weighted angles."""
        return mouth_descriptor(self.ring, self.angles)


def head_angles(pose: HeadPose) -> np.ndarray:
    """(..., 2) yaw and pitch in degrees."""
    pitch = np.degrees(np.arcsin(np.clip(pose.rotation[..., 2, 1], -1, 1)))
    return np.stack([pose.yaw(), pitch], axis=-1)


def mouth_descriptor(ring: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(..., 20, 2) rings and (..., 2) angles → (..., 42) descriptors, compared by Euclidean distance in units."""
    flat = ring.reshape(*ring.shape[:-2], 40) / np.sqrt(20)
    return np.concatenate([flat, UNITS_PER_DEGREE * angles], axis=-1)


@dataclass(frozen=True)
class BankConfig:
    """Limits of the bank.

    Attributes:
        size: maximum number of entries.
        min_distance: minimum distance between entries, units.
        min_opening: minimum mean opening of a mouth, units.
        max_side: maximum length of a crop's longer side, pixels; larger crops are downscaled.
    """

    size: int = 60
    min_distance: float = 0.45
    min_opening: float = 1.0
    max_side: int = 480

    def __post_init__(self) -> None:
        if self.size < 1 or self.max_side < 16:
            raise UsageError(f"a bank needs size >= 1 and max_side >= 16, not {self.size} and {self.max_side}")


@dataclass
class InnerMouthBank:
    """Open mouths of diverse shape and pose: farthest-point sampling of a stream; near duplicates keep the sharper."""

    config: BankConfig = field(default_factory=BankConfig)
    entries: list[InnerMouth] = field(default_factory=list)
    seen: int = 0
    _shut: int = 0
    _place: np.ndarray = field(default_factory=lambda: np.zeros(2))
    _descriptors: np.ndarray = field(default_factory=lambda: np.zeros((0, 42)))
    _pair: tuple[float, int] | None = None  # cached result of `_closest`

    def observe(
        self, frame: np.ndarray, points: np.ndarray, pose: HeadPose | None = None, covered: Covered | None = None
    ) -> bool:
        """Observes a frame (H, W, 3) with its (206, 3) points; returns whether its mouth was added.

        `covered` is asked before a mouth is added: whether something is in front of it.
        """
        self.seen += 1
        pose = pose or HeadPose.of(points)
        ring = to_mouth_plane(points[LIPS_INNER], mouth_plane(pose))
        if self.observe_shut(ring):
            return False
        distance = np.linalg.norm(self._descriptors - mouth_descriptor(ring, head_angles(pose)), axis=1)
        if len(self.entries) >= self.config.size and distance.min() < self._closest()[0]:
            return self._refresh(frame, points, pose, distance, covered)
        if len(distance) and distance.min() < self.config.min_distance:
            return self._refresh(frame, points, pose, distance, covered)
        entry = crop_mouth(frame, points, pose, self.seen, self.config.max_side)
        if entry is None or (covered is not None and covered()):
            return False
        if len(self.entries) >= self.config.size:
            self._replace(self._closest()[1], entry)
        else:
            self.add(entry)
        return True

    def observe_shut(self, ring: np.ndarray) -> bool:
        """Whether a mouth, a (20, 2) ring in the mouth plane, is shut; if so, it tells where the teeth are."""
        if np.maximum(gaps(ring), 0).mean() >= self.config.min_opening:
            return False
        self._shut += 1
        self._place = self._place + (teeth_place(ring) - self._place) / self._shut
        return True

    def add(self, entry: InnerMouth) -> None:
        """Adds an entry, as long as there is room."""
        if len(self.entries) < self.config.size:
            self.entries.append(entry)
            self._descriptors = np.vstack([self._descriptors, entry.descriptor()])
            self._pair = None

    def widest(self) -> InnerMouth | None:
        """The widest open entry; None with an empty bank."""
        return max(self.entries, key=lambda entry: entry.opening, default=None)

    def _closest(self) -> tuple[float, int]:
        """Distance between the two most similar entries, and the index of the less sharp one."""
        if self._pair is None:
            self._pair = self._closest_pair()
        return self._pair

    def _closest_pair(self) -> tuple[float, int]:
        distances = np.linalg.norm(self._descriptors[:, None] - self._descriptors[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        one, other = divmod(int(distances.argmin()), len(distances))
        return float(distances.min()), min(one, other, key=lambda entry: self.entries[entry].sharpness)

    def _refresh(
        self, frame: np.ndarray, points: np.ndarray, pose: HeadPose, distance: np.ndarray, covered: Covered | None
    ) -> bool:  # fmt: skip
        """Replaces a near duplicate if the new mouth is clearly sharper."""
        twin = int(distance.argmin())
        if distance[twin] > self.config.min_distance:
            return False
        least = 1.3 * self.entries[twin].sharpness
        entry = crop_mouth(frame, points, pose, self.seen, self.config.max_side, least)
        if entry is None or (covered is not None and covered()):
            return False
        self._replace(twin, entry)
        return True

    def _replace(self, index: int, entry: InnerMouth) -> None:
        self.entries[index] = entry
        self._descriptors[index] = entry.descriptor()
        self._pair = None

    def dark(self) -> np.ndarray | None:
        """(3,) BGR color of the darkest inner mouth observed; None with an empty bank."""
        darkest = min(self.entries, key=lambda entry: entry.darkness, default=None)
        return None if darkest is None else darkest.dark

    def teeth(self) -> np.ndarray | None:
        """(2,) mean `teeth_place` of the closed mouths observed, units; None if there was none."""
        return self._place if self._shut else None

    @property
    def nbytes(self) -> int:
        """Size of the stored pixels in bytes."""
        return sum(entry.pixels.nbytes for entry in self.entries)


def crop_mouth(
    frame: np.ndarray, points: np.ndarray, pose: HeadPose, number: int = 0, max_side: int = 480,
    least_sharpness: float = 0.0,
) -> InnerMouth | None:  # fmt: skip
    """Crops the mouth of a frame as a bank entry; None if it extends beyond the frame or is less sharp than that."""
    ring = points[LIPS_OUTER, :2]
    margin = 2 * float(pose.scale)
    low, high = np.floor(ring.min(0) - margin).astype(int), np.ceil(ring.max(0) + margin).astype(int)
    if (low < 0).any() or high[0] > frame.shape[1] or high[1] > frame.shape[0]:
        return None
    pixels = frame[low[1] : high[1], low[0] : high[0]]
    corner = np.array([*low, 0])
    edges = lip_edges(pixels, points - corner) + corner
    reduction = min(1.0, max_side / max(pixels.shape[:2]))
    if reduction < 1:
        pixels = cv2.resize(pixels, None, fx=reduction, fy=reduction, interpolation=cv2.INTER_AREA)
    plane = mouth_plane(pose)
    to_crop = plane.copy()
    to_crop[:, 2] -= low
    to_crop *= reduction
    inner = to_mouth_plane(edges, plane)
    inside = np.zeros(pixels.shape[:2], np.uint8)
    polygon = (edges[:, :2] - low) * reduction
    cv2.fillPoly(inside, [np.round(polygon * 16).astype(np.int32)], 1, shift=4)
    gray = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    sharpness = _sharpness(gray, inside > 0)
    if sharpness < least_sharpness:
        return None
    dark, lips = _darkest(pixels, gray, inside > 0), lip_color(pixels, inside, float(pose.scale) * reduction)
    sampled = sample_look(pixels, to_crop, inner)
    split = _split(pixels, to_crop, inner)
    return InnerMouth(number, pixels.copy(), to_crop, inner, head_angles(pose), sharpness, dark, lips, sampled, split)


def lip_color(pixels: np.ndarray, opening: np.ndarray, scale: float) -> np.ndarray:
    """(3,) mean BGR color of the `LIP_RIM` units around a mouth opening.

    Args:
        pixels: (h, w, 3).
        opening: (h, w) mask, 0 to 1.
        scale: pixels per unit.
    """
    wide = cv2.dilate(opening, np.ones((2 * max(1, round(LIP_RIM * scale)) + 1,) * 2, np.uint8))
    rim = (cv2.subtract(wide, opening) > 0.5).astype(np.uint8)
    return np.array(cv2.mean(pixels, rim if cv2.hasNonZero(rim) else None)[:3])


def skin_color(pixels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(3,) median BGR color of the skin around the lips.

    Args:
        pixels: (h, w, 3).
        points: (206, 3) mesh points in them; where they lie outside, the border counts.
    """
    ring = points[LIPS_OUTER, :2]
    middle = ring.mean(axis=0)
    around = np.vstack([middle + reach * (ring - middle) for reach in SKIN])
    x, y = np.clip(np.round(around).astype(int), 0, (pixels.shape[1] - 1, pixels.shape[0] - 1)).T
    return np.median(pixels[y, x], axis=0)


def _split(pixels: np.ndarray, plane: np.ndarray, ring: np.ndarray) -> float:
    """y of the darkest row inside the lips if it is much darker than the rows above, else infinity."""
    top, floor = ring[13:18, 1].mean(), ring[3:8, 1].mean()
    x = np.linspace(ring[3:8, 0].min(), ring[3:8, 0].max(), 24)
    y = np.linspace(top + 0.12 * (floor - top), floor - 0.12 * (floor - top), 32)
    coordinates = np.stack(np.meshgrid(x, y), -1) @ plane[:, :2].T + plane[:, 2]
    gray = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    map_x, map_y = np.ascontiguousarray(np.moveaxis(coordinates.astype(np.float32), -1, 0))
    rows = cv2.remap(gray, map_x, map_y, cv2.INTER_LINEAR).mean(axis=1)
    rows = np.convolve(np.pad(rows, 2, mode="edge"), np.full(5, 0.2), "valid")
    dark = int(rows.argmin())
    above = rows[: dark + 1].max()
    return float(y[dark]) if floor - top > 2.5 and rows[dark] < 0.75 * above else np.inf


def _sharpness(gray: np.ndarray, inside: np.ndarray) -> float:
    """Variance of the Laplacian inside the lips."""
    return float(cv2.Laplacian(gray, cv2.CV_32F)[inside].var()) if inside.sum() >= FEWEST else 0.0


def _darkest(pixels: np.ndarray, gray: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(3,) mean color of the darkest tenth inside the lips."""
    if inside.sum() < FEWEST:
        return np.median(pixels.reshape(-1, 3), axis=0) * 0.3
    dark = np.argsort(gray[inside], kind="stable")[: max(4, int(inside.sum()) // 10)]
    return pixels[inside][dark].mean(axis=0)
