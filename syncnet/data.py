"""Windows for the expert: mouths and sounds of one clip, in order, with augmentation that hides who speaks."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from preprocessing.augmentation import HEARD, Augmentation, Hearing, View
from preprocessing.clips import Clip
from preprocessing.windows import Region, face_window, mel_windows, random_starts

WINDOW = 5  # frames of 0.2 s at 25 fps, the length of a mel window
MOUTH = Region(left=16 / 96, top=28 / 96, side=64 / 96, size=64)  # of a points crop
DISGUISE = replace(
    Augmentation.none(), shift=5, turn=8, zoom=(0.9, 1.12), flip=0.5, grey=0.5, gain=(0.7, 1.3), tint=1,
    gamma=(0.75, 1.3), blur=0.3, sigma=(0.4, 1.2), noise=4, mel_gain=0.6, mel_tilt=0.4, mel_noise=0.15, bands=(2, 8),
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


def expert_mels(mel: np.ndarray, starts: np.ndarray, hearing: Hearing = HEARD) -> np.ndarray:
    """(W, 1, 80, 16) float32: the sound of each five-frame window of a clip whose mel is (80, T)."""
    return mel_windows(mel, starts, Fraction(0), hearing)


def sample(
    clip: Clip, rng: np.random.Generator, windows: int, step: int = 2, augmentation: Augmentation = DISGUISE
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`windows` windows, `step` frames apart, from a random place of the clip, all disguised alike.

    Otherwise the disguise itself would tell the windows apart.

    Returns:
        mel (W, 1, 80, 16) and mouths (W, 15, 64, 64), float32.
    """
    starts = random_starts(clip.frames, windows, rng, length=WINDOW, nearest=step, farthest=step)
    view, hearing = View.draw(augmentation, rng, MOUTH.scale), Hearing.draw(augmentation, rng)
    mouths = face_window(clip, MOUTH, int(starts[0]), int(starts[-1] - starts[0]) + WINDOW, view)
    return expert_mels(clip.mel, starts, hearing), mouth_windows(mouths, starts - starts[0])
