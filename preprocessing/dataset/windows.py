"""Windows: consecutive face crops of a clip with their audio, and the stream of windows used for training."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from preprocessing.dataset.augmentation import IDENTITY_IMAGE, IDENTITY_MEL, ImageTransform, MelTransform
from preprocessing.dataset.clips import CLIP_FPS, Clip, open_clips
from preprocessing.dataset.manifest import read_manifest
from preprocessing.errors import UsageError, display_path
from preprocessing.media.audio import AudioConfig
from preprocessing.media.mel import FRAME_LEAD, mel_window

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class CropRegion:
    """A square region of the network crop: left, top and side relative to the crop side, resampled to `size` pixels."""

    left: float = 0.0
    top: float = 0.0
    side: float = 1.0
    size: int = 96

    @property
    def scale(self) -> float:
        """Output pixels per pixel of a 96-pixel crop."""
        return self.size / (96 * self.side)

    def matrix(self, clip: Clip) -> np.ndarray:
        """(3, 3) map from stored-frame pixels to region pixels; pixel centers are at integer (x, y)."""
        scale = self.size / (self.side * clip.size)
        left, top = ((0.5 - clip.margin - start * clip.size) * scale - 0.5 for start in (self.left, self.top))
        return np.array([[scale, 0, left], [0, scale, top], [0, 0, 1]])


def face_window(
    clip: Clip, region: CropRegion, first: int, count: int, view: ImageTransform = IDENTITY_IMAGE
) -> np.ndarray:
    """A region of `count` consecutive frames of a clip, all transformed the same way.

    The geometric transforms share a single interpolation. Outside the stored frame, its edge pixels are repeated.

    Returns:
        (count, S, S, 3) uint8 BGR, S the region's size.
    """
    matrix = (view.matrix(region.size) @ region.matrix(clip))[:2]
    return view.apply_photometric(np.stack([resample(face, matrix, region.size) for face in clip.faces(first, count)]))


def resample(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Resamples a square by a (2, 3) affine map: bilinear, after area averaging if it shrinks by 2 or more."""
    (a, b), (c, d) = matrix[:, :2].tolist()
    shrink = int(1 / math.sqrt(max(abs(a * d - b * c), 1e-9)) + 1e-6)
    if shrink >= 2:
        height, width = (max(1, side // shrink) for side in image.shape[:2])
        fx, fy = image.shape[1] / width, image.shape[0] / height
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1]])
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def mel_windows(
    mel: np.ndarray, frames: Sequence[int] | np.ndarray, lead: Fraction = FRAME_LEAD,
    mel_transform: MelTransform = IDENTITY_MEL, config: AudioConfig = AudioConfig(),
) -> np.ndarray:  # fmt: skip
    """Mel windows of a clip's frames, all transformed the same way.

    Args:
        mel: (80, T) mel spectrogram of the whole clip.
        frames: (W,) frame indices.
        lead: FRAME_LEAD for frames of the generator, 0 for the first frames of the sync expert's windows.

    Returns:
        (W, 1, 80, 16) float32.
    """
    times = [Fraction(int(frame), CLIP_FPS) + Fraction(mel_transform.offset) for frame in frames]
    if replace(mel_transform, offset=0.0, seed=0) != IDENTITY_MEL:
        first, last = (math.floor(config.columns_per_second * (time - lead)) for time in (min(times), max(times)))
        span = slice(max(first, 0), max(last + config.window_columns, 0))
        mel = mel.copy()
        mel[:, span] = mel_transform.apply(mel[:, span], config)
    return np.stack([mel_window(mel, time, config, lead)[None] for time in times])


def random_starts(
    frames: int, count: int, rng: np.random.Generator, *, length: int, nearest: int = 1, farthest: int | None = None
) -> np.ndarray:  # fmt: skip
    """Draws the start frames of random windows of a clip, in ascending order.

    Args:
        frames: length of the clip.
        count: number of windows, each `length` frames long.
        nearest, farthest: minimum and maximum distance between successive starts; None: limited only by the clip.

    Returns:
        (count,) int64; distances stay below `farthest` if the clip is too short.

    Raises:
        UsageError: the clip is too short even for windows `nearest` frames apart.
    """
    slack = frames - length
    if slack < (count - 1) * nearest:
        raise UsageError(f"{count} windows of {length} frames, {nearest} apart, do not fit into {frames} frames")
    most = slack // max(count - 1, 1)
    gaps = rng.integers(nearest, max(nearest, min(most, farthest or most)) + 1, size=count - 1)
    first = rng.integers(0, slack - gaps.sum() + 1)
    return np.concatenate(([first], first + np.cumsum(gaps)))


def open_splits(
    folder: Path, val: Path | None, shortest: int, kind: str = "points"
) -> tuple[list[Clip], list[Clip]]:  # fmt: skip
    """Opens the training clips and the held-out clips, the latter from the "val" split or from a separate folder.

    A folder without a manifest is used for training as a whole.

    Args:
        folder: the output folder of preprocessing.build.
        val: a folder held out as a whole, instead of the "val" split of `folder`.
        shortest: minimum number of frames.
        kind: the crop kind the network requires.

    Raises:
        UsageError: there is no training clip, or the crops are of another kind.
    """
    manifest = folder / "manifest.csv"
    rows = read_manifest(manifest) if manifest.is_file() else []
    has_val = any(row.split == "val" and row.passes and row.usable_frames >= shortest for row in rows)
    clips = open_clips(folder, shortest, "train" if manifest.is_file() else None)
    held_out = open_clips(val, shortest) if val else open_clips(folder, shortest, "val") if has_val else []
    for some in filter(None, (clips, held_out)):
        if (found := some[0].header.crop.kind) != kind:
            raise UsageError(f"{display_path(some[0].path)} holds {found!r} crops; this training needs {kind!r}")
    return clips, held_out


class WindowDataset(Dataset[Sample], Generic[Sample]):
    """An endless stream of windows: window i depends only on (seed, i).

    The stream is therefore the same for any number of worker processes, and an interrupted run resumes it exactly.
    """

    def __init__(
        self, clips: Sequence[Clip], weights: np.ndarray, draw: Callable[[Clip, np.random.Generator], Sample], seed: int
    ) -> None:  # fmt: skip
        """Draws clips with probabilities proportional to `weights` (len(clips),) and passes them to `draw`."""
        self.clips, self.draw, self.seed = clips, draw, seed
        self._bounds = np.cumsum(weights)[:-1] / np.sum(weights)

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng((self.seed, number))
        chosen = int(np.searchsorted(self._bounds, rng.random(), side="right"))
        return self.draw(self.clips[chosen], rng)


def batches(
    draws: WindowDataset[Sample], size: int, steps: range, *, workers: int = 0,
    collate: Callable[[list[Sample]], Any] | None = None,
) -> DataLoader:  # fmt: skip
    """Batches of the stream for the given steps: step s has the windows s * size to s * size + size - 1.

    `workers` processes prefetch them; with 0, this process draws them on demand.
    """
    if workers:
        cv2.setNumThreads(1)  # OpenCV's threads do not survive a fork; a worker using them would hang
    numbers = range(steps.start * size, steps.stop * size)
    return DataLoader(
        draws, size, sampler=numbers, num_workers=workers, collate_fn=collate, worker_init_fn=_ignore_interrupt
    )


def _ignore_interrupt(worker: int) -> None:
    """Leaves Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
