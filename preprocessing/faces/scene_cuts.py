"""Where a video cuts from one shot to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

AHEAD = 2  # frames a decision waits for
BEHIND = 3
# Set on edited studio reels: real cuts differ by 34 to 130 grey levels and 0.3 to 0.95 in colour, while talking,
# gestures and hand-held cameras stay below 16 and 0.1.
LEAST_DIFFERENCE = 15.0
LEAST_COLOUR = 0.25
LEAST_SPIKE, LEAST_SPIKE_COLOUR = 3.0, 0.1


@dataclass(frozen=True)
class _Thumbnail:
    """What one frame looks like: float32 (32, 32, 3) picture and 512 shares of coarse colours."""

    picture: np.ndarray
    colours: np.ndarray


class SceneCutDetector:
    """Tells of each frame whether a new shot begins there, AHEAD frames late.

    At a cut no frame before it looks like any frame after it, so a flash of one or two frames is none. And either the
    colours change, or one difference stands out among its neighbours; a fast pan does neither.
    """

    def __init__(self) -> None:
        self._looks: deque[_Thumbnail] = deque(maxlen=BEHIND + 1 + AHEAD)
        self._count = 0

    def push(self, frame: np.ndarray) -> bool | None:
        """Whether the frame AHEAD frames before this one (H, W, 3) starts a shot; None while there is no such frame."""
        self._looks.append(_thumbnail(frame))
        self._count += 1
        return self._verdict(AHEAD) if self._count > AHEAD else None

    def finish(self) -> list[bool]:
        """The verdicts on the last frames, for which there is less to compare with."""
        return [self._verdict(ahead) for ahead in reversed(range(min(AHEAD, self._count)))]

    def _verdict(self, ahead: int) -> bool:
        looks = list(self._looks)
        here = len(looks) - 1 - ahead
        before, after = looks[max(here - BEHIND, 0) : here], looks[here:]
        if not before or _least(_difference, before, after) < LEAST_DIFFERENCE:
            return False
        colour = _least(_colour_difference, before, after)
        return colour > LEAST_COLOUR or (colour > LEAST_SPIKE_COLOUR and _spike(before, after) > LEAST_SPIKE)


def _thumbnail(frame: np.ndarray) -> _Thumbnail:
    small = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
    colours = cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel() / small[..., 0].size
    return _Thumbnail(cv2.resize(small, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32), colours)


def _difference(one: _Thumbnail, other: _Thumbnail) -> float:
    """Mean difference in grey levels, 0..255."""
    return float(np.abs(one.picture - other.picture).mean())


def _colour_difference(one: _Thumbnail, other: _Thumbnail) -> float:
    """The share of the picture, 0..1, that has changed its colour."""
    return float(np.abs(one.colours - other.colours).sum() / 2)


def _least(
    measure: Callable[[_Thumbnail, _Thumbnail], float], before: Sequence[_Thumbnail], after: Sequence[_Thumbnail]
) -> float:
    return min(measure(one, other) for one in before for other in after)


def _spike(before: list[_Thumbnail], after: list[_Thumbnail]) -> float:
    """The difference across the cut over the largest one beside it."""
    beside = [_difference(*pair) for side in (before, after) for pair in pairwise(side)]
    return _difference(before[-1], after[0]) / max([1e-6, *beside])
