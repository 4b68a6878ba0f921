"""Windows for the generator: five frames to speak, a reference from elsewhere in the clip, and their sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from preprocessing.audio import rest_in_silence
from preprocessing.augmentation import Augmentation, Hearing, View
from preprocessing.clips import Clip
from preprocessing.video import shown
from preprocessing.windows import Region, face_window, mel_windows, random_starts, resample
from syncnet.data import WINDOW, expert_mels

DISGUISE = replace(
    Augmentation.none(), shift=4, flip=0.5, gain=(0.85, 1.15), tint=0.3, gamma=(0.88, 1.17), mel_gain=0.4
)  # fmt: skip
LOOKED_AT = 24  # frames from which a reference is chosen
GLANCE = Region(size=24)  # the size at which they are looked at


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
    """Small grey pictures of some of a clip's frames, by which references are chosen.

    Attributes:
        frames: (N,) their numbers.
        pose: (N, P) float32, the part above the mask: where the head is and how it is turned.
        mouth: (N, Q) float32, the part below.
    """

    frames: np.ndarray
    pose: np.ndarray
    mouth: np.ndarray

    @classmethod
    def of(cls, clip: Clip, frames: Sequence[int] | np.ndarray, mask: float) -> Look:
        """Looks at some frames; `mask` is the first masked row as a share of the side."""
        seen, row = _seen(clip.path, clip.offset), round(mask * GLANCE.size)
        for frame in map(int, frames):
            if frame not in seen:
                seen[frame] = _glance(clip, frame)
        pictures = np.stack([seen[int(frame)] for frame in frames]).astype(np.float32)
        pose, mouth = (part.reshape(len(pictures), -1) for part in (pictures[:, :row], pictures[:, row:]))
        return cls(np.asarray(frames), pose, mouth)

    def reference(self, middle: int, rng: np.random.Generator) -> int:
        """One of the frames whose head is held as in frame number `middle`, which is among them, but not its mouth.

        Of the frames that are farther than a window away, the third with the nearest pose; of these the half with the
        farther mouth; of these any. Source: informative frame sampling of MuseTalk (arXiv 2410.10122).
        """
        own = int(np.flatnonzero(self.frames == middle)[0])
        far = np.flatnonzero(np.abs(self.frames - middle) >= WINDOW + WINDOW // 2)
        near = far[np.argsort(np.abs(self.pose[far] - self.pose[own]).mean(axis=1))][: max(1, len(far) // 3)]
        differ = near[np.argsort(-np.abs(self.mouth[near] - self.mouth[own]).mean(axis=1))]
        return int(self.frames[rng.choice(differ[: max(1, len(differ) // 2)])])


@lru_cache(maxsize=512)
def _seen(path: Path, offset: int) -> dict[int, np.ndarray]:
    """What has been looked at of a clip by its frames' numbers, which an offset moves; the clips used last are
    remembered, 0.2 MB for ten seconds."""
    return {}


def _glance(clip: Clip, frame: int) -> np.ndarray:
    """(24, 24) uint8, grey."""
    picture = cv2.imdecode(np.frombuffer(clip.jpegs(frame, 1)[0], np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)
    if picture is None:
        raise ValueError(f"{shown(clip.path)} has no picture where frame {frame} should be")
    halved = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # half the size is decoded quicker
    return resample(picture, (GLANCE.matrix(clip) @ halved)[:2], GLANCE.size)


def reference_frame(clip: Clip, first: int, mask: float, rng: np.random.Generator) -> int:
    """A frame at least five away from the window from `first` on, like in pose and unlike in its mouth.

    Chosen among `LOOKED_AT` random frames; 0 where the clip is too short for a distant one.
    """
    middle = min(first + WINDOW // 2, clip.frames - 1)
    far = np.flatnonzero(np.abs(np.arange(clip.frames) - middle) >= WINDOW + WINDOW // 2)
    if not far.size:
        return 0
    some = rng.choice(far, min(LOOKED_AT, len(far)), replace=False)
    return Look.of(clip, [middle, *some.tolist()], mask).reference(middle, rng)


def sample(
    clip: Clip, rng: np.random.Generator, size: int = 96, mask_row: int = 40, augmentation: Augmentation = DISGUISE
) -> Window:  # fmt: skip
    """A random window with a reference from elsewhere in the clip.

    The reference is moved apart from the target by up to one pixel, so that the two crops' frames tell nothing.

    Args:
        size, mask_row: the generator's.
    """
    # The sound of frame 0 begins before the clip does.
    first = 1 + int(random_starts(clip.frames - 1, 1, rng, length=WINDOW)[0]) if clip.frames > WINDOW else 0
    other, region = reference_frame(clip, first, mask_row / size, rng), Region(size=size)
    view, hearing = View.draw(augmentation, rng, region.scale), Hearing.draw(augmentation, rng)
    apart = view.apart(round(region.scale) if augmentation.shift else 0, rng)
    target, reference = face_window(clip, region, first, WINDOW, view), face_window(clip, region, other, 1, apart)
    mel = clip.mel
    quiet = rest_in_silence(mel, clip.speech)
    mels = mel_windows(quiet, range(first, first + WINDOW), hearing=hearing)
    return Window(target, np.repeat(reference, WINDOW, axis=0), mels, expert_mels(mel, np.array([first]))[0])
