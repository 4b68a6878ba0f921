"""Samples references for a window, and silent windows in which the mouth is at rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from preprocessing.dataset.clips import CLIP_FPS, Clip
from preprocessing.dataset.windows import CropRegion, resample
from preprocessing.errors import UsageError, display_path
from syncnet.data import WINDOW

POLICIES = ("random", "far", "pose")
MARGIN = 3  # silent frames required before and after a silent window
SILENCE_CANDIDATES = 6  # silent windows among which the stillest is chosen
CANDIDATES = 24  # frames among which a reference is chosen
THUMBNAIL = CropRegion(size=24)  # for comparing candidates


@dataclass
class FramePoses:
    """Grayscale thumbnails of some of a clip's frames, for choosing references.

    Attributes:
        frames: (N,) frame numbers.
        pose: (N, P) float32, pixels above the mask row, which show the head pose.
        mouth: (N, Q) float32, pixels below the mask row.
    """

    frames: np.ndarray
    pose: np.ndarray
    mouth: np.ndarray

    @classmethod
    def of(cls, clip: Clip, frames: Sequence[int] | np.ndarray, mask: float) -> FramePoses:
        """Thumbnails of `frames`; `mask` is the first masked row as a fraction of the side."""
        cache, row = _thumbnail_cache(clip.path, clip.offset), round(mask * THUMBNAIL.size)
        for frame in map(int, frames):
            if frame not in cache:
                cache[frame] = _thumbnail(clip, frame)
        images = np.stack([cache[int(frame)] for frame in frames]).astype(np.float32)
        pose, mouth = (part.reshape(len(images), -1) for part in (images[:, :row], images[:, row:]))
        return cls(np.asarray(frames), pose, mouth)

    def reference(self, middle: int, rng: np.random.Generator) -> int:
        """Samples a frame whose pose is similar to that of `middle`, one of the frames, and whose mouth differs.

        Of the frames more than a window away, take the third with the closest pose, of these the half with the most
        different mouth, and of these one at random. Source: informative frame sampling of MuseTalk (arXiv 2410.10122).
        """
        own = int(np.flatnonzero(self.frames == middle)[0])
        far = np.flatnonzero(np.abs(self.frames - middle) >= WINDOW + WINDOW // 2)
        near = far[np.argsort(np.abs(self.pose[far] - self.pose[own]).mean(axis=1))][: max(1, len(far) // 3)]
        differ = near[np.argsort(-np.abs(self.mouth[near] - self.mouth[own]).mean(axis=1))]
        return int(self.frames[rng.choice(differ[: max(1, len(differ) // 2)])])


@lru_cache(maxsize=512)
def _thumbnail_cache(path: Path, offset: int) -> dict[int, np.ndarray]:
    """Thumbnails of a clip by frame number, which depends on the offset; an LRU cache of 0.2 MB per ten seconds."""
    return {}


def _thumbnail(clip: Clip, frame: int) -> np.ndarray:
    """(24, 24) uint8, grayscale."""
    image = cv2.imdecode(np.frombuffer(clip.jpegs(frame, 1)[0], np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)
    if image is None:
        raise UsageError(f"frame {frame} of {display_path(clip.path)} cannot be decoded")
    halved = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # decoding at half size is faster
    return resample(image, (THUMBNAIL.matrix(clip) @ halved)[:2], THUMBNAIL.size)


def reference_frames(
    clip: Clip, first: int, mask: float, rng: np.random.Generator, policy: str = "pose", moving: bool = False
) -> tuple[int, int]:  # fmt: skip
    """Samples a reference for the window that starts at `first`: its first frame and number of frames, 1 or 5.

    It has five frames if `moving` and the clip is long enough. If the clip is too short for a reference, it is frame 0.

    Args:
        clip: the clip.
        first: the window's first frame.
        mask: the first masked row as a fraction of the side.
        rng: the source of randomness.
        policy: "random": a frame outside the window; "far": at least five frames away from it; "pose": one of
            `CANDIDATES` such frames, see `FramePoses.reference`. With five frames, the policy applies to the middle one
            and the distance to all.
        moving: whether to sample five consecutive frames.
    """
    assert policy in POLICIES
    middle = min(first + WINDOW // 2, clip.frames - 1)
    nearest = WINDOW // 2 + 1 if policy == "random" else WINDOW + WINDOW // 2
    for half in (WINDOW // 2, 0) if moving else (0,):
        inside = np.arange(half, clip.frames - half)
        others = inside[np.abs(inside - middle) >= nearest + half]
        if others.size:
            chosen = _pose_matched(clip, middle, others, mask, rng) if policy == "pose" else int(rng.choice(others))
            return chosen - half, 2 * half + 1
    return 0, 1


def _pose_matched(clip: Clip, middle: int, others: np.ndarray, mask: float, rng: np.random.Generator) -> int:
    some = rng.choice(others, min(CANDIDATES, len(others)), replace=False)
    return FramePoses.of(clip, [middle, *some.tolist()], mask).reference(middle, rng)


def silent_windows(clip: Clip) -> np.ndarray:
    """(N,) first frames of all windows without speech, including `MARGIN` frames before and after."""
    columns_per_frame, span = clip.config.columns_per_second / CLIP_FPS, WINDOW + 2 * MARGIN
    first = np.arange(max(clip.frames + 1 - span, 0))
    begins = first * columns_per_frame.numerator // columns_per_frame.denominator
    ends = -(-(first + span) * columns_per_frame.numerator // columns_per_frame.denominator)  # rounded up
    speech_count = np.concatenate(([0], np.cumsum(clip.speech)))
    return first[speech_count[ends] == speech_count[begins]] + MARGIN


class SilenceSampler:
    """Samples silent windows of the clips' speakers; each clip is searched on first use."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._windows: dict[tuple[Path, int], np.ndarray] = {}
        self._by_speaker: dict[str, list[Clip]] = {}
        for clip in clips:
            self._by_speaker.setdefault(clip.speaker, []).append(clip)

    def draw(self, clip: Clip, mask: float, rng: np.random.Generator) -> tuple[Clip, int] | None:
        """Samples a silent window as clip and first frame, from `clip` or else the speaker's other clips, else None.

        Of a few silent windows it takes the one with the least mouth motion: people breathe in before they speak.
        """
        others = self._by_speaker.get(clip.speaker, [])
        for candidate in (clip, *(others[index] for index in rng.permutation(len(others)))):
            if (windows := self.windows(candidate)).size:
                some = rng.choice(windows, min(SILENCE_CANDIDATES, len(windows)), replace=False)
                return candidate, int(some[np.argmin([_motion(candidate, int(first), mask) for first in some])])
        return None

    def windows(self, clip: Clip) -> np.ndarray:
        """`silent_windows` of a clip, cached."""
        key = clip.path, clip.offset
        if key not in self._windows:
            self._windows[key] = silent_windows(clip)
        return self._windows[key]


def _motion(clip: Clip, first: int, mask: float) -> float:
    """Change of the masked rows from a window's first to its middle to its last frame, relative to the contrast.

    Without the normalization, a fade to black would look still.
    """
    poses = FramePoses.of(clip, [first, first + WINDOW // 2, first + WINDOW - 1], mask)
    contrast = np.hstack([poses.pose, poses.mouth]).std(axis=1).min()
    return float(np.abs(np.diff(poses.mouth, axis=0)).mean() / max(contrast, 1.0))
