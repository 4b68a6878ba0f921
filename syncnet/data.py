"""Windows for the expert: mouths and sounds of one clip, in order, with augmentation that hides who speaks."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np

from preprocessing.audio import mel_window
from preprocessing.clips import CLIP_FPS, Clip

WINDOW = 5  # frames of 0.2 s at 25 fps, the length of a mel window
MOUTH = (16, 28)  # left and top of the mouth's square in a 96-pixel points crop; its side is 64


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


def expert_mels(clip: Clip, starts: np.ndarray) -> np.ndarray:
    """(W, 1, 80, 16) float32: the sound of each five-frame window."""
    return np.stack([mel_window(clip.mel, Fraction(int(s), CLIP_FPS), lead=Fraction(0))[None] for s in starts])


def sample(
    clip: Clip, rng: np.random.Generator, windows: int, step: int = 2, augment: bool = True
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`windows` windows, `step` frames apart, from a random place of the clip.

    Returns:
        mel (W, 1, 80, 16) and mouths (W, 15, 64, 64), float32.
    """
    span = (windows - 1) * step + WINDOW
    first = int(rng.integers(0, clip.frames - span + 1))
    shift = rng.integers(-5, 6, size=2) if augment else np.zeros(2, int)
    left, top = MOUTH[0] + clip.margin + shift[0], MOUTH[1] + clip.margin + shift[1]
    faces = clip.faces(first, span)[:, top : top + 64, left : left + 64]
    if augment:
        faces = _disguise(faces, rng)
    starts = np.arange(windows) * step
    mel = expert_mels(clip, first + starts)
    return (_mel_noise(mel, rng) if augment else mel), mouth_windows(faces, starts)


def _disguise(faces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same flip, turn, grey, gain, gamma and blur for all frames of the run."""
    turn, zoom = rng.uniform(-8, 8), rng.uniform(0.9, 1.12)
    matrix = cv2.getRotationMatrix2D((31.5, 31.5), turn, zoom)
    blur = rng.uniform(0.4, 1.2) if rng.random() < 0.3 else 0.0
    gain, gamma, grey = rng.uniform(0.7, 1.3, size=3), rng.uniform(0.75, 1.3), rng.random() < 0.5
    table = 255 * (np.arange(256)[:, None] / 255) ** gamma * (gain.mean() if grey else gain)
    table = np.clip(table, 0, 255).astype(np.uint8)[None]
    result = np.empty_like(faces)
    for index, face in enumerate(faces):
        face = cv2.warpAffine(face, matrix, (64, 64), borderMode=cv2.BORDER_REPLICATE)
        face = cv2.GaussianBlur(face, (5, 5), blur) if blur else face
        face = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) if grey else face
        result[index] = cv2.LUT(face, table)
    noisy = result + rng.normal(0, rng.uniform(0, 4), result.shape).astype(np.float32)
    result = np.clip(noisy, 0, 255).astype(np.uint8)
    return result[:, :, ::-1] if rng.random() < 0.5 else result


def _mel_noise(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same level, tilt and masked bands for all windows of the run, and noise."""
    tilt = np.linspace(-1, 1, mel.shape[2], dtype=np.float32)[:, None] * rng.uniform(-0.4, 0.4)
    mel = mel + np.float32(rng.uniform(-0.6, 0.6)) + tilt + rng.normal(0, 0.15, mel.shape).astype(np.float32)
    for _ in range(2):
        low, width = rng.integers(0, 76), rng.integers(0, 9)
        mel[:, :, low : low + width] = mel.mean()
    return np.clip(mel, -4, 4).astype(np.float32)
