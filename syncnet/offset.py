"""AV offset, distance and confidence from the distances between audio and video embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.errors import UsageError

REACH = 15  # largest shift in frames, as in syncnet_python
FRAME_MS = 40  # duration of a frame at 25 fps


@dataclass(frozen=True)
class SyncScore:
    """AV offset of a set of windows.

    Attributes:
        offset: in frames at 25 fps with syncnet_python's sign: the video at frame i matches the audio at frame
            i - offset. Positive: the audio is early; negative: it is late.
        distance: minimum of the curve of mean distance over shift.
        confidence: the curve's median minus its minimum.
        windows: number of windows compared.
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
    """Cosine distances of each video window to the audio windows around it.

    Args:
        video: (W, D) unit embeddings of consecutive windows.
        audio: (W, D) unit embeddings of the same windows' audio.
        reach: largest shift in frames, in both directions.

    Returns:
        (W, 2 * reach + 1) float32, 0 to 2: column reach + k holds 1 - cos(video[i], audio[i + k]), nan where window
        i + k does not exist.
    """
    windows = len(video)
    distances = np.full((windows, 2 * reach + 1), np.nan, np.float32)
    for k in range(-min(reach, windows - 1), min(reach, windows - 1) + 1):
        rows = slice(max(0, -k), min(windows, windows - k))
        shifted = slice(rows.start + k, rows.stop + k)
        distances[rows, reach + k] = 1 - np.einsum("wd,wd->w", video[rows], audio[shifted])
    return distances


def shift_curve(distances: np.ndarray) -> np.ndarray:
    """Mean distance at each shift: (W, 2 * reach + 1) to (2 * reach + 1,), nan where no window has a value."""
    known = ~np.isnan(distances)
    sums = np.where(known, distances, 0).sum(0, dtype=np.float64)
    return np.where(known.any(0), sums / np.maximum(known.sum(0), 1), np.nan)


def sync_score(distances: np.ndarray, windows: np.ndarray | None = None) -> SyncScore:
    """Computes offset, distance and confidence the way LSE-D and LSE-C are defined.

    Args:
        distances: (W, 2 * reach + 1), from `cosine_distances` or `syncnet.scoring.lse.lse_distances`.
        windows: (W,) bool, the windows to use; None: all.

    Raises:
        UsageError: no window has a distance.
    """
    selected = distances if windows is None else distances[windows]
    curve = shift_curve(selected) if len(selected) else np.array([np.nan])
    if np.isnan(curve).all():
        raise UsageError("no window has both video and audio to compare")
    best = int(np.nanargmin(curve))
    known = np.sort(curve[~np.isnan(curve)])
    median = known[(len(known) - 1) // 2]  # the lower of two middle values, like torch.median
    return SyncScore(len(curve) // 2 - best, float(curve[best]), float(median - curve[best]), len(selected))
