"""Windows: consecutive faces of a clip with their sounds, and the stream in which they are drawn for training."""

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
from preprocessing.media.audio import FRAME_LEAD, AudioConfig, mel_window

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class CropRegion:
    """A square of the network's crop: left, top and side as shares of the crop's side, shown `size` pixels wide."""

    left: float = 0.0
    top: float = 0.0
    side: float = 1.0
    size: int = 96

    @property
    def scale(self) -> float:
        """Pixels shown for a pixel of a crop of 96."""
        return self.size / (96 * self.side)

    def matrix(self, clip: Clip) -> np.ndarray:
        """(3, 3) from the pixels of the clip's stored pictures to the region's; a pixel's centre is (x, y)."""
        scale = self.size / (self.side * clip.size)
        left, top = ((0.5 - clip.margin - start * clip.size) * scale - 0.5 for start in (self.left, self.top))
        return np.array([[scale, 0, left], [0, scale, top], [0, 0, 1]])


def face_window(
    clip: Clip, region: CropRegion, first: int, count: int, view: ImageTransform = IDENTITY_IMAGE
) -> np.ndarray:
    """A region of `count` consecutive frames of a clip, all seen by the same view.

    Position, size, turn and flip cost one interpolation. Beyond the stored picture its edge is repeated.

    Returns:
        (count, S, S, 3) uint8 BGR, S the region's size.
    """
    matrix = (view.matrix(region.size) @ region.matrix(clip))[:2]
    return view.apply_photometric(np.stack([resample(face, matrix, region.size) for face in clip.faces(first, count)]))


def resample(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """A square out of a picture by a (2, 3) map: bilinear, averaged down first where it shrinks by two or more."""
    (a, b), (c, d) = matrix[:, :2].tolist()
    shrink = int(1 / math.sqrt(max(abs(a * d - b * c), 1e-9)) + 1e-6)
    if shrink >= 2:
        height, width = (max(1, side // shrink) for side in picture.shape[:2])
        fx, fy = picture.shape[1] / width, picture.shape[0] / height
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1]])
    return cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def mel_windows(
    mel: np.ndarray, frames: Sequence[int] | np.ndarray, lead: Fraction = FRAME_LEAD, mel_transform: MelTransform = IDENTITY_MEL,
    config: AudioConfig = AudioConfig(),
) -> np.ndarray:  # fmt: skip
    """The sounds of a clip's frames, all heard alike.

    Args:
        mel: (80, T) of the whole clip.
        frames: (W,) numbers of frames.
        lead: FRAME_LEAD for the generator's frames, 0 for the first frames of the expert's windows.

    Returns:
        (W, 1, 80, 16) float32.
    """
    times = [Fraction(int(frame), CLIP_FPS) + Fraction(mel_transform.offset) for frame in frames]
    if replace(mel_transform, offset=0.0, seed=0) != IDENTITY_MEL:
        first, last = (math.floor(config.columns_per_second * (time - lead)) for time in (min(times), max(times)))
        heard = slice(max(first, 0), max(last + config.window_columns, 0))
        mel = mel.copy()
        mel[:, heard] = mel_transform.apply(mel[:, heard], config)
    return np.stack([mel_window(mel, time, config, lead)[None] for time in times])


def random_starts(
    frames: int, count: int, rng: np.random.Generator, *, length: int, nearest: int = 1, farthest: int | None = None
) -> np.ndarray:  # fmt: skip
    """First frames of random windows of a clip, in order.

    Args:
        frames: the clip's.
        count: number of windows, each `length` frames long.
        nearest, farthest: the least and the most frames from one start to the next; None: as far as the clip allows.

    Returns:
        (count,) int64. They lie nearer together than `farthest` where the clip is too short for it.

    Raises:
        UsageError: the clip is too short even for windows as near as `nearest`.
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
    """The clips to train on and those held out: the splits of one folder, or another folder's clips for the latter.

    A folder without a manifest is trained on as a whole, and nothing of it is held out.

    Args:
        folder: what preprocessing.build made.
        val: a folder that is held out as a whole, instead of `folder`'s has_val split "val".
        shortest: the fewest frames.
        kind: of crops that the network is made for.

    Raises:
        UsageError: there is nothing to train on, or crops of another kind.
    """
    manifest = folder / "manifest.csv"
    rows = read_manifest(manifest) if manifest.is_file() else []
    has_val = any(row.split == "val" and row.passes and row.usable_frames >= shortest for row in rows)
    clips = open_clips(folder, shortest, "train" if manifest.is_file() else None)
    held_out = open_clips(val, shortest) if val else open_clips(folder, shortest, "val") if has_val else []
    for some in filter(None, (clips, held_out)):
        if (found := some[0].header.crop.kind) != kind:
            raise UsageError(
                f"{display_path(some[0].path)} is a crop of the kind {found!r}; this training needs {kind!r}"
            )
    return clips, held_out


class WindowDataset(Dataset[Sample], Generic[Sample]):
    """An endless stream of windows: number i depends on (seed, i) alone.

    So the stream is the same for any number of worker processes, and a run that was stopped goes on in it where it was.
    """

    def __init__(
        self, clips: Sequence[Clip], weights: np.ndarray, draw: Callable[[Clip, np.random.Generator], Sample], seed: int
    ) -> None:  # fmt: skip
        """Clips are drawn with probabilities in proportion to `weights`, (len(clips),), and given to `draw`."""
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
    """The stream's batches for the given steps: step s has the windows s * size to s * size + size - 1.

    They are drawn by `workers` processes ahead of their use, or by this one when asked for (0).
    """
    if workers:
        cv2.setNumThreads(1)  # OpenCV's threads do not survive a fork; a worker that asked for them would wait for ever
    numbers = range(steps.start * size, steps.stop * size)
    return DataLoader(draws, size, sampler=numbers, num_workers=workers, collate_fn=collate, worker_init_fn=_ignore_interrupt)


def _ignore_interrupt(worker: int) -> None:
    """A worker leaves Ctrl-C to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
