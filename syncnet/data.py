"""Windows for the expert: mouths and sounds of one clip, with augmentation that hides who speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from preprocessing.dataset.augmentation import IDENTITY_MEL, Augmentation, ImageTransform, MelTransform
from preprocessing.dataset.clips import CLIP_FPS, Clip
from preprocessing.dataset.windows import CropRegion, Sample, WindowDataset, face_window, mel_windows, random_starts
from preprocessing.media.audio import AudioConfig

WINDOW = 5  # frames of 0.2 s at 25 fps, the length of a mel window
PLACES = 6  # of a clip that are tried for one with speech
MOUTH = CropRegion(left=16 / 96, top=28 / 96, side=64 / 96, size=64)  # of a points crop
AUGMENTATION = replace(
    Augmentation.none(), shift=5, turn=8, zoom=(0.9, 1.12), flip=0.5, grey=0.5, gain=(0.7, 1.3), tint=1,
    gamma=(0.75, 1.3), blur=0.3, sigma=(0.4, 1.2), noise=4, mel_gain=1.5, mel_tilt=0.4, mel_noise=0.15, bands=(2, 8),
    stretch=0.12, shear=0.08, mel_warp=0.12,
)  # fmt: skip


def mouth_windows(faces: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Stacks five consecutive mouths on channels.

    Args:
        faces: (N, S, S, 3) uint8 BGR.
        starts: (W,) first frames.

    Returns:
        (W, 15, S, S) float32, 0 to 1.
    """
    stacked = np.stack([faces[starts + k] for k in range(WINDOW)], axis=1)  # W, 5, S, S, 3
    return stacked.transpose(0, 1, 4, 2, 3).reshape(len(starts), -1, *faces.shape[1:3]).astype(np.float32) / 255


def expert_mels(mel: np.ndarray, starts: np.ndarray, mel_transform: MelTransform = IDENTITY_MEL) -> np.ndarray:
    """(W, 1, 80, 16) float32: the sound of each five-frame window of a clip whose mel is (80, T)."""
    return mel_windows(mel, starts, Fraction(0), mel_transform)


def speech_share(speech: np.ndarray, first: int, last: int, config: AudioConfig = AudioConfig()) -> float:
    """The share of speech, (T,) bool by mel column, in the sound of the frames from `first` up to `last`."""
    begin, end = (int(config.columns_per_second * Fraction(frame, CLIP_FPS)) for frame in (first, last))
    return float(speech[begin:end].mean())


def sample(
    clip: Clip, rng: np.random.Generator, windows: int, step: int = 2, augmentation: Augmentation = AUGMENTATION,
    region: CropRegion = MOUTH, min_speech_share: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`windows` windows, `step` frames apart, from a random place of the clip, all disguised alike.

    Otherwise the disguise itself would tell the windows apart. A place with speech in less than `min_speech_share` of its sound
    is drawn again, a few times: silent windows cannot be told apart by anybody.

    Returns:
        mel (W, 1, 80, 16) and mouths (W, 15, S, S), float32, S the region's size.
    """
    for _ in range(PLACES if min_speech_share else 1):
        starts = random_starts(clip.frames, windows, rng, length=WINDOW, nearest=step, farthest=step)
        if min_speech_share and speech_share(clip.speech, int(starts[0]), int(starts[-1]) + WINDOW) >= min_speech_share:
            break
    view, mel_transform = ImageTransform.draw(augmentation, rng, region.scale), MelTransform.draw(augmentation, rng)
    mouths = face_window(clip, region, int(starts[0]), int(starts[-1] - starts[0]) + WINDOW, view)
    return expert_mels(clip.mel, starts, mel_transform), mouth_windows(mouths, starts - starts[0])


def pair(
    clip: Clip, rng: np.random.Generator, nearest: int = WINDOW, augmentation: Augmentation = AUGMENTATION,
    region: CropRegion = MOUTH,
) -> tuple[np.ndarray, np.ndarray, np.float32]:  # fmt: skip
    """The sound of one window with its own mouths or, half of the time, with those of another window of the clip.

    The other one starts `nearest` frames away or farther. The published expert's may be a single frame away: such a
    pair shares four of its five frames and nobody could call it out of sync; five frames away it shares none.

    Returns:
        mel (1, 80, 16) and mouths (15, S, S), float32, and whether they belong together, 1 or 0.
    """
    starts = random_starts(clip.frames, 2, rng, length=WINDOW, nearest=nearest)
    heard, seen = rng.permutation(starts)
    if together := rng.random() < 0.5:
        seen = heard
    view, mel_transform = ImageTransform.draw(augmentation, rng, region.scale), MelTransform.draw(augmentation, rng)
    mouths = mouth_windows(face_window(clip, region, int(seen), WINDOW, view), np.array([0]))
    return expert_mels(clip.mel, np.array([heard]), mel_transform)[0], mouths[0], np.float32(together)


class ProcessShare(WindowDataset[Sample]):
    """One process' part of a stream: of each step's numbers a run of its own, and all together the whole stream."""

    def __init__(
        self, clips: Sequence[Clip], weights: np.ndarray, draw: Callable[[Clip, np.random.Generator], Sample], seed: int,
        size: int, rank: int, processes: int,
    ) -> None:  # fmt: skip
        """`size`: numbers a step of this process, the `rank`-th of `processes`; the others as of `WindowDataset`."""
        super().__init__(clips, weights, draw, seed)
        self.size, self.rank, self.processes = size, rank, processes

    def __getitem__(self, number: int) -> Sample:
        step, place = divmod(number, self.size)
        return super().__getitem__((step * self.processes + self.rank) * self.size + place)
