"""Training windows for the sync expert: mouth crops and mels of a clip, augmented to hide the speaker's identity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from preprocessing.dataset.augmentation import IDENTITY_MEL, Augmentation, ImageTransform, MelTransform
from preprocessing.dataset.clips import CLIP_FPS, Clip
from preprocessing.dataset.windows import CropRegion, Sample, WindowDataset, face_window, mel_windows, random_starts
from preprocessing.media.audio import AudioConfig

WINDOW = 5  # frames: 0.2 s at 25 fps, the length of a mel window
MAX_DRAWS = 6  # attempts to find a position with speech in a clip
MOUTH = CropRegion(left=16 / 96, top=28 / 96, side=64 / 96, size=64)  # within a points crop
AUGMENTATION = replace(
    Augmentation.none(), shift=5, turn=8, zoom=(0.9, 1.12), flip=0.5, grey=0.5, gain=(0.7, 1.3), tint=1,
    gamma=(0.75, 1.3), blur=0.3, sigma=(0.4, 1.2), noise=4, mel_gain=1.5, mel_tilt=0.4, mel_noise=0.15, bands=(2, 8),
    stretch=0.12, shear=0.08, mel_warp=0.12,
)  # fmt: skip


def mouth_windows(faces: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Stacks five consecutive mouth crops along the channels.

    Args:
        faces: (N, S, S, 3) uint8 BGR.
        starts: (W,) first frame of each window.

    Returns:
        (W, 15, S, S) float32, 0 to 1.
    """
    stacked = np.stack([faces[starts + k] for k in range(WINDOW)], axis=1)  # W, 5, S, S, 3
    return stacked.transpose(0, 1, 4, 2, 3).reshape(len(starts), -1, *faces.shape[1:3]).astype(np.float32) / 255


def window_mels(mel: np.ndarray, starts: np.ndarray, mel_transform: MelTransform = IDENTITY_MEL) -> np.ndarray:
    """The mel of each five-frame window, (W, 1, 80, 16) float32, cut from a clip's mel (80, T)."""
    return mel_windows(mel, starts, Fraction(0), mel_transform)


def speech_share(speech: np.ndarray, first: int, last: int, config: AudioConfig = AudioConfig()) -> float:
    """The share of mel columns with speech in frames `first` to `last`, exclusive; `speech` is (T,) bool by column."""
    begin, end = (int(config.columns_per_second * Fraction(frame, CLIP_FPS)) for frame in (first, last))
    return float(speech[begin:end].mean())


def sample(
    clip: Clip, rng: np.random.Generator, windows: int, step: int = 2, augmentation: Augmentation = AUGMENTATION,
    region: CropRegion = MOUTH, min_speech_share: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Samples `windows` windows, `step` frames apart, at a random position; all share one augmentation.

    With separate augmentations the network could tell the windows apart by those. A position whose share of speech is
    below `min_speech_share` is redrawn, up to `MAX_DRAWS` times: silent windows are indistinguishable.

    Returns:
        mels (W, 1, 80, 16) and mouths (W, 15, S, S), float32, with S the region's size.
    """
    for _ in range(MAX_DRAWS if min_speech_share else 1):
        starts = random_starts(clip.frames, windows, rng, length=WINDOW, nearest=step, farthest=step)
        if min_speech_share and speech_share(clip.speech, int(starts[0]), int(starts[-1]) + WINDOW) >= min_speech_share:
            break
    view, mel_transform = ImageTransform.draw(augmentation, rng, region.scale), MelTransform.draw(augmentation, rng)
    mouths = face_window(clip, region, int(starts[0]), int(starts[-1] - starts[0]) + WINDOW, view)
    return window_mels(clip.mel, starts, mel_transform), mouth_windows(mouths, starts - starts[0])


def pair(
    clip: Clip, rng: np.random.Generator, nearest: int = WINDOW, augmentation: Augmentation = AUGMENTATION,
    region: CropRegion = MOUTH,
) -> tuple[np.ndarray, np.ndarray, np.float32]:  # fmt: skip
    """Samples a window's mel with its own mouths or, half of the time, with those of another window of the clip.

    Negatives start at least `nearest` frames away. In the published recipe they may be a single frame away, which
    shares four of five frames and is hardly out of sync; at five frames nothing is shared.

    Returns:
        mel (1, 80, 16) and mouths (15, S, S), float32, and the label: 1 in sync, 0 off-sync.
    """
    starts = random_starts(clip.frames, 2, rng, length=WINDOW, nearest=nearest)
    audio_start, video_start = rng.permutation(starts)
    if in_sync := rng.random() < 0.5:
        video_start = audio_start
    view, mel_transform = ImageTransform.draw(augmentation, rng, region.scale), MelTransform.draw(augmentation, rng)
    mouths = mouth_windows(face_window(clip, region, int(video_start), WINDOW, view), np.array([0]))
    return window_mels(clip.mel, np.array([audio_start]), mel_transform)[0], mouths[0], np.float32(in_sync)


class ShardedDataset(WindowDataset[Sample]):
    """One process's share of a sample stream; together, the processes draw the whole stream."""

    def __init__(
        self, clips: Sequence[Clip], weights: np.ndarray, draw: Callable[[Clip, np.random.Generator], Sample],
        seed: int, size: int, rank: int, processes: int,
    ) -> None:  # fmt: skip
        """
        Args:
            size: samples per step in this process.
            rank: of this process.
            processes: number of processes. The remaining arguments are those of `WindowDataset`.
        """
        super().__init__(clips, weights, draw, seed)
        self.size, self.rank, self.processes = size, rank, processes

    def __getitem__(self, number: int) -> Sample:
        step, index = divmod(number, self.size)
        return super().__getitem__((step * self.processes + self.rank) * self.size + index)
