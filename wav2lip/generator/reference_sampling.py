"""Places in a clip: where a window's reference may come from, and where a mouth rests."""

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
MARGIN = 3  # frames before and after a window of silence in which nothing is said either
TRIED = 6  # windows of silence of which the stillest is taken
LOOKED_AT = 24  # frames from which a reference is chosen
GLANCE = CropRegion(size=24)  # the size at which they are looked at


@dataclass
class FramePoses:
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
    def of(cls, clip: Clip, frames: Sequence[int] | np.ndarray, mask: float) -> FramePoses:
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
        raise UsageError(f"{display_path(clip.path)} has no picture where frame {frame} should be")
    halved = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # half the size is decoded quicker
    return resample(picture, (GLANCE.matrix(clip) @ halved)[:2], GLANCE.size)


def reference_frames(
    clip: Clip, first: int, mask: float, rng: np.random.Generator, policy: str = "pose", moving: bool = False
) -> tuple[int, int]:  # fmt: skip
    """First frame and number of frames, 1 or 5, of a reference for the window from `first` on.

    Five where it is to be `moving` and the clip is long enough; frame 0 where the clip is too short for even one.

    Args:
        mask: the first masked row as a share of the side.
        policy: "random", a frame that is not in the window; "far", at least five frames away from all of it; "pose",
            one of `LOOKED_AT` such frames, see `FramePoses.reference`. Of five frames it chooses the middle one, and all of
            them are as far away.
    """
    assert policy in POLICIES
    middle = min(first + WINDOW // 2, clip.frames - 1)
    nearest = WINDOW // 2 + 1 if policy == "random" else WINDOW + WINDOW // 2
    for reach in (WINDOW // 2, 0) if moving else (0,):
        inside = np.arange(reach, clip.frames - reach)
        others = inside[np.abs(inside - middle) >= nearest + reach]
        if others.size:
            chosen = _alike(clip, middle, others, mask, rng) if policy == "pose" else int(rng.choice(others))
            return chosen - reach, 2 * reach + 1
    return 0, 1


def _alike(clip: Clip, middle: int, others: np.ndarray, mask: float, rng: np.random.Generator) -> int:
    some = rng.choice(others, min(LOOKED_AT, len(others)), replace=False)
    return FramePoses.of(clip, [middle, *some.tolist()], mask).reference(middle, rng)


def silent_places(clip: Clip) -> np.ndarray:
    """(N,) first frames of all windows during which, and `MARGIN` frames before and after, nothing is said."""
    a_frame, span = clip.config.columns_per_second / CLIP_FPS, WINDOW + 2 * MARGIN
    first = np.arange(max(clip.frames + 1 - span, 0))
    begins = first * a_frame.numerator // a_frame.denominator
    ends = -(-(first + span) * a_frame.numerator // a_frame.denominator)  # rounded up
    spoken = np.concatenate(([0], np.cumsum(clip.speech)))
    return first[spoken[ends] == spoken[begins]] + MARGIN


class SilenceSampler:
    """Where the speakers of some clips rest their mouths; a clip is looked into when it is first asked for."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._places: dict[tuple[Path, int], np.ndarray] = {}
        self._of_speaker: dict[str, list[Clip]] = {}
        for clip in clips:
            self._of_speaker.setdefault(clip.speaker, []).append(clip)

    def draw(self, clip: Clip, mask: float, rng: np.random.Generator) -> tuple[Clip, int] | None:
        """A clip and a window's first frame there: of `clip` if it rests, else of its speaker's others, else None.

        Of a few windows of silence the one in which the mouth moves least: before they speak, people take breath.
        """
        others = self._of_speaker.get(clip.speaker, [])
        for each in (clip, *(others[index] for index in rng.permutation(len(others)))):
            if (places := self.places(each)).size:
                some = rng.choice(places, min(TRIED, len(places)), replace=False)
                return each, int(some[np.argmin([_motion(each, int(first), mask) for first in some])])
        return None

    def places(self, clip: Clip) -> np.ndarray:
        """`silent_places` of a clip, remembered."""
        key = clip.path, clip.offset
        if key not in self._places:
            self._places[key] = silent_places(clip)
        return self._places[key]


def _motion(clip: Clip, first: int, mask: float) -> float:
    """How far the masked rows change from a window's first frame to its middle and on to its last one, as a share of
    the picture's contrast: where the picture fades away, everything seems to rest."""
    look = FramePoses.of(clip, [first, first + WINDOW // 2, first + WINDOW - 1], mask)
    contrast = np.hstack([look.pose, look.mouth]).std(axis=1).min()
    return float(np.abs(np.diff(look.mouth, axis=0)).mean() / max(contrast, 1.0))
