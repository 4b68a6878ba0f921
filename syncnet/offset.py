"""By how many frames sound and picture are apart, read off the distances of their embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.errors import UsageError

REACH = 15  # frames each way, as syncnet_python looks
FRAME_MS = 40  # milliseconds of a frame at 25 fps


@dataclass(frozen=True)
class SyncScore:
    """What a run of windows says about sync.

    Attributes:
        offset: the AV offset in frames of 25 fps with syncnet_python's sign: the picture at frame i fits the sound at
            frame i - offset. Positive: the sound comes early; negative: it comes late.
        distance: the least of the curve.
        confidence: the curve's median less its least.
        windows: number that were compared.
    """

    offset: int
    distance: float
    confidence: float
    windows: int

    @property
    def milliseconds(self) -> int:
        """The offset in milliseconds."""
        return self.offset * FRAME_MS


def cosine_distances(video: np.ndarray, audio: np.ndarray, reach: int = REACH) -> np.ndarray:
    """How far each picture is from the sounds around it.

    Args:
        video: (W, D) unit embeddings of consecutive windows.
        audio: (W, D) those of their sounds.
        reach: frames each way.

    Returns:
        (W, 2 * reach + 1) float32, 0 to 2: column reach + k holds 1 - cos(video[i], audio[i + k]), and nan where
        there is no window i + k.
    """
    windows = len(video)
    distances = np.full((windows, 2 * reach + 1), np.nan, np.float32)
    for k in range(-min(reach, windows - 1), min(reach, windows - 1) + 1):
        here = slice(max(0, -k), min(windows, windows - k))
        there = slice(here.start + k, here.stop + k)
        distances[here, reach + k] = 1 - np.einsum("wd,wd->w", video[here], audio[there])
    return distances


def shift_curve(distances: np.ndarray) -> np.ndarray:
    """The mean distance at each shift: (W, 2 * reach + 1) to (2 * reach + 1,), nan where no window has one."""
    known = ~np.isnan(distances)
    sums = np.where(known, distances, 0).sum(0, dtype=np.float64)
    return np.where(known.any(0), sums / np.maximum(known.sum(0), 1), np.nan)


def sync_score(distances: np.ndarray, windows: np.ndarray | None = None) -> SyncScore:
    """Offset, distance and confidence as LSE-D and LSE-C are computed, from our distances or syncnet_python's.

    Args:
        distances: (W, 2 * reach + 1), see `cosine_distances`.
        windows: (W,) bool, those that count; None: all.

    Raises:
        UsageError: there is nothing to compare.
    """
    counted = distances if windows is None else distances[windows]
    curve = shift_curve(counted) if len(counted) else np.array([np.nan])
    if np.isnan(curve).all():
        raise UsageError("there is no window whose picture and sound could be compared")
    best = int(np.nanargmin(curve))
    known = np.sort(curve[~np.isnan(curve)])
    median = known[(len(known) - 1) // 2]  # of an even number the lower one, as torch.median takes it
    return SyncScore(len(curve) // 2 - best, float(curve[best]), float(median - curve[best]), len(counted))
