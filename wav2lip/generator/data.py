"""Training windows for the generator: five target frames, a reference from elsewhere in the clip, and their audio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from preprocessing.dataset.augmentation import Augmentation, ImageTransform, MelTransform
from preprocessing.dataset.clips import Clip
from preprocessing.dataset.windows import CropRegion, face_window, mel_windows, random_starts
from preprocessing.errors import UsageError
from preprocessing.media.speech_activity import rest_in_silence
from syncnet.data import WINDOW, window_mels
from wav2lip.generator.model import mask_and_stack
from wav2lip.generator.reference_sampling import POLICIES, SilenceSampler, reference_frames

AUGMENTATION = replace(
    Augmentation.none(), shift=4, flip=0.5, gain=(0.85, 1.15), tint=0.3, gamma=(0.88, 1.17), mel_gain=0.4
)  # fmt: skip


@dataclass
class GeneratorWindow:
    """Five consecutive target frames and the generator's inputs for them.

    Attributes:
        target: (5, S, S, 3) uint8 BGR.
        reference: (5, S, S, 3) uint8 BGR, from elsewhere in the clip: one frame repeated, or five consecutive frames.
        mels: (5, 1, 80, 16) float32, one window per frame.
        window_mel: (1, 80, 16) float32, the sync expert's window for all five frames.
        silent: whether all of `mels` are silent, so that there is no sync to measure.
    """

    target: np.ndarray
    reference: np.ndarray
    mels: np.ndarray
    window_mel: np.ndarray
    silent: bool


@dataclass(frozen=True)
class Sampling:
    """How training windows are sampled.

    Attributes:
        reference: "random": any frame outside the window; "far": any frame at least five frames away from it; "pose":
            one of the latter with a similar head pose and a different mouth.
        moving: Share of windows whose reference is five consecutive frames, centered on a frame chosen as above,
            instead of one repeated frame. At inference each frame is its own reference, whose mouth moves.
        silent: Share of windows sampled from pauses, with digital silence as audio and thus a mouth at rest as target;
            other windows may fall on pauses by chance.
        jitter: Maximum offset between the crops of reference and target, horizontally and vertically, in pixels of a
            96-pixel crop (rounded to whole pixels of the generator's input), so that their alignment reveals nothing.
        augmentation: Augmentation of the windows.
    """

    reference: Literal["random", "far", "pose"] = "pose"
    moving: float = 0.5
    silent: float = 0.1
    jitter: float = 1.0
    augmentation: Augmentation = AUGMENTATION

    def __post_init__(self) -> None:
        if self.reference not in POLICIES:
            raise UsageError(f"reference must be one of {', '.join(POLICIES)}, not {self.reference!r}")
        for name in ("moving", "silent"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.jitter < math.inf:
            raise UsageError(f"jitter must be 0 or more pixels, not {self.jitter}")

    @classmethod
    def plain(cls) -> Sampling:
        """For evaluation: unaugmented windows at any position, each with a single reference frame of similar pose."""
        return cls("pose", 0.0, 0.0, 0.0, Augmentation.none())


def _start(clip: Clip, rng: np.random.Generator) -> int:
    """A random first frame; not 0, whose audio starts before the clip."""
    return 1 + int(random_starts(clip.frames - 1, 1, rng, length=WINDOW)[0]) if clip.frames > WINDOW else 0


def sample(
    clip: Clip, rng: np.random.Generator, size: int = 96, mask_row: int = 40, sampling: Sampling = Sampling(),
    silence: SilenceSampler | None = None,
) -> GeneratorWindow:  # fmt: skip
    """Samples a random window with a reference from elsewhere in the clip.

    Args:
        clip: the clip.
        rng: the source of all randomness.
        size, mask_row: the generator's.
        sampling: how to sample.
        silence: samples silent windows from the speaker's other clips if this one has none; default: this clip only.
            Without any silent window, an ordinary one is sampled.
    """
    from_pause, moving = (share > 0 and rng.random() < share for share in (sampling.silent, sampling.moving))
    mask, region = mask_row / size, CropRegion(size=size)
    silent_window = (silence or SilenceSampler([clip])).draw(clip, mask, rng) if from_pause else None
    clip, first = silent_window or (clip, _start(clip, rng))
    other, count = reference_frames(clip, first, mask, rng, sampling.reference, moving)
    view = ImageTransform.draw(sampling.augmentation, rng, region.scale)
    mel_transform = MelTransform.draw(sampling.augmentation, rng)
    apart = view.jittered(round(sampling.jitter * region.scale), rng)
    target, reference = face_window(clip, region, first, WINDOW, view), face_window(clip, region, other, count, apart)
    mel, config = clip.mel, clip.config
    mels = mel_windows(rest_in_silence(mel, clip.speech), range(first, first + WINDOW), mel_transform=mel_transform)
    silent, window_mel = bool(mels.max() <= -config.max_abs_value), window_mels(mel, np.array([first]))[0]
    return GeneratorWindow(target, np.repeat(reference, WINDOW // count, axis=0), mels, window_mel, silent)


@dataclass
class GeneratorBatch:
    """Tensors of B windows, flattened to 5 B frames except for `window_mel` and `silent`.

    Attributes:
        faces: (5 B, 6, S, S) float32, the generator's input, see `mask_and_stack`.
        target: (5 B, 3, S, S) float32 BGR, 0 to 1.
        mels: (5 B, 1, 80, 16) float32.
        window_mel: (B, 1, 80, 16) float32.
        silent: (B,) bool.
    """

    faces: Tensor
    target: Tensor
    mels: Tensor
    window_mel: Tensor
    silent: Tensor

    def to(self, device: torch.device | str) -> GeneratorBatch:
        """Moves the tensors to a device."""
        return GeneratorBatch(*(getattr(self, item.name).to(device) for item in fields(self)))


def collate(windows: Sequence[GeneratorWindow], mask_row: int) -> GeneratorBatch:
    """Collates windows into tensors; the input frames are masked from `mask_row` on."""
    target = np.concatenate([w.target for w in windows])
    faces = mask_and_stack(target, np.concatenate([w.reference for w in windows]), mask_row)
    whole = target.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    mels, window_mel = np.concatenate([w.mels for w in windows]), np.stack([w.window_mel for w in windows])
    silent = np.array([w.silent for w in windows])
    return GeneratorBatch(*(torch.from_numpy(x) for x in (faces, whole, mels, window_mel, silent)))
