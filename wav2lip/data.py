"""Windows for the generator: five frames to speak, a reference from elsewhere in the clip, and their sounds."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from preprocessing.audio import mel_window, rest_in_silence
from preprocessing.clips import CLIP_FPS, Clip
from syncnet.data import WINDOW, expert_mels


@dataclass
class Window:
    """Five consecutive frames and what the generator may know of them.

    Attributes:
        target: (5, S, S, 3) uint8 BGR.
        reference: (5, S, S, 3) uint8 BGR, one frame of the same clip, five times.
        mels: (5, 1, 80, 16) float32, each frame's window.
        window_mel: (1, 80, 16) float32, the expert's window of all five.
    """

    target: np.ndarray
    reference: np.ndarray
    mels: np.ndarray
    window_mel: np.ndarray


@dataclass
class Look:
    """Small grey pictures of a clip's frames, by which references are chosen.

    Attributes:
        pose: (N, 144) float32, the part above the mask: where the head is and how it is turned.
        mouth: (N, 144) float32, the part below.
    """

    pose: np.ndarray
    mouth: np.ndarray

    @classmethod
    def of(cls, clip: Clip, mask_row: int, size: int = 96) -> Look:
        """Looks at every frame of the clip once."""
        edge, row = clip.margin, clip.margin + mask_row
        faces = clip.faces(0, clip.frames)[:, edge : edge + size, edge : edge + size]
        parts = []
        for part in (slice(0, row - edge), slice(row - edge, size)):
            small = [cv2.resize(f[part], (12, 12), interpolation=cv2.INTER_AREA).mean(axis=-1) for f in faces]
            parts.append(np.stack(small).reshape(len(faces), -1).astype(np.float32))
        return cls(*parts)

    def reference(self, first: int, rng: np.random.Generator) -> int:
        """A frame whose head is held as in the window from `first` on, but whose mouth is not.

        Of up to 24 frames that lie at least five away, the third with the nearest pose; of these the half with the
        farther mouth; of these any. Source: informative frame sampling of MuseTalk (arXiv 2410.10122).
        """
        middle = min(first + WINDOW // 2, len(self.pose) - 1)
        far = np.flatnonzero(np.abs(np.arange(len(self.pose)) - middle) >= WINDOW + WINDOW // 2)
        if not far.size:
            return 0
        some = rng.choice(far, min(24, len(far)), replace=False)
        near = some[np.argsort(np.abs(self.pose[some] - self.pose[middle]).mean(axis=1))][: max(1, len(some) // 3)]
        differ = near[np.argsort(-np.abs(self.mouth[near] - self.mouth[middle]).mean(axis=1))]
        return int(rng.choice(differ[: max(1, len(differ) // 2)]))


def frame_mels(mel: np.ndarray, first: int, count: int) -> np.ndarray:
    """(count, 1, 80, 16): the windows of `count` frames of a 25 fps clip from `first` on."""
    return np.stack([mel_window(mel, Fraction(k, CLIP_FPS))[None] for k in range(first, first + count)])


def sample(clip: Clip, look: Look, rng: np.random.Generator, augment: bool = True, size: int = 96) -> Window:
    """A random window with a reference from elsewhere in the clip.

    The reference is moved apart from the target by up to one pixel, so that the two crops' frames tell nothing.
    """
    first = int(rng.integers(1, clip.frames - WINDOW + 1)) if clip.frames > WINDOW else 0
    other = look.reference(first, rng)
    target, reference = clip.faces(first, WINDOW), clip.faces(other, 1)
    shift = rng.integers(-4, 5, size=2) if augment else np.zeros(2, int)
    apart = rng.integers(-1, 2, size=2) if augment else np.zeros(2, int)
    target, reference = _cut(target, clip.margin + shift, size), _cut(reference, clip.margin + shift + apart, size)
    if augment:
        target, reference = _recolour(target, reference, rng)
    quiet = rest_in_silence(clip.mel, clip.speech)
    gain = np.float32(rng.uniform(-0.4, 0.4)) if augment else np.float32(0)
    mels = np.where(quiet > -4, np.clip(quiet + gain, -4, 4), quiet) if augment else quiet
    window_mel = expert_mels(clip, np.array([first]))[0]
    return Window(target, np.repeat(reference, WINDOW, axis=0), frame_mels(mels, first, WINDOW), window_mel)


def _cut(faces: np.ndarray, corner: np.ndarray, size: int) -> np.ndarray:
    x, y = int(corner[0]), int(corner[1])
    return faces[:, y : y + size, x : x + size]


def _recolour(
    target: np.ndarray, reference: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The same flip, gain and gamma for both."""
    levels = np.arange(256) / 255
    tables = [255 * levels ** rng.uniform(0.8, 1.25) * rng.uniform(0.85, 1.15) for _ in range(3)]
    tables = [np.clip(0.7 * np.mean(tables, axis=0) + 0.3 * table, 0, 255).astype(np.uint8) for table in tables]
    flip = slice(None, None, -1 if rng.random() < 0.5 else 1)

    def change(faces: np.ndarray) -> np.ndarray:
        return np.stack([tables[c][faces[..., c]] for c in range(3)], axis=-1)[:, :, flip]

    return change(target), change(reference)
