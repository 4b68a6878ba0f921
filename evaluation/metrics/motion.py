"""How a mouth moves, by itself, beside the real one and with the sound: arrays in, numbers out.

Pictures are points crops, (N, S, S, 3) uint8 BGR, of consecutive frames at 25 a second. Openings are curves of
`opening`, (N,), in hundredths of the crop's side. A mouth at rest has a curve with a standard deviation below STILL:
what is a share of its motion, or goes with it, does not exist and is None, unless the function says otherwise.
"""

from __future__ import annotations

import cv2
import numpy as np

from evaluation.metrics.picture import Box, part
from preprocessing.dataset.clip_header import CLIP_FPS

AROUND: Box = (0.2, 0.3, 0.8, 0.95)  # where the flow for the opening is looked for
UPPER: Box = (0.42, 0.46, 0.58, 0.53)  # upper lip and the skin above it
LOWER: Box = (0.4, 0.59, 0.6, 0.72)  # lower lip and the upper half of the chin

STILL = 0.1  # hundredths of the side: a curve of openings with a smaller standard deviation is of a mouth at rest
MOVING = 0.7  # hundredths of the side, see `moving_share`
MOMENT = 2  # frames to either side that it looks at
SILENCE = 10 ** (-60 / 20)  # root mean square below which an envelope does not fall


def opening(pictures: np.ndarray) -> np.ndarray:
    """How far the mouth is open in each frame, against the middle frame, in hundredths of the crop's side.

    By how much farther down the lower lip and chin lie than there, less the same of the upper lip: optical flow (DIS,
    arXiv 1603.03590) from the middle frame to each. A head that moves takes both along. It compares the frames of one
    clip alone, for its zero is the middle frame's; pouting lips, whose lower one hangs, count as open a little.

    Returns:
        (N,) float64.
    """
    grey = np.stack([cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures])
    seen = np.ascontiguousarray(part(grey, AROUND))
    search, middle = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), seen[len(seen) // 2]
    down = np.zeros(grey.shape, np.float32)
    flows = [search.calc(middle, each, None) for each in seen]  # type: ignore[call-overload]  # None: no guess
    part(down, AROUND)[:] = np.stack(flows)[..., 1]
    lower, upper = (part(down, box).mean((1, 2), dtype=np.float64) for box in (LOWER, UPPER))
    return (lower - upper) * 100 / grey.shape[1]


def travel(openings: np.ndarray) -> float:
    """Mean absolute change of an opening, (N,), from frame to frame; the head's motion has no part in it."""
    return float(np.abs(np.diff(openings)).mean())


def at_rest(openings: np.ndarray) -> bool:
    """Whether a mouth, (N,), does not move beyond what the flow finds in a mouth at rest."""
    return bool(np.std(openings) < STILL)


def articulation(openings: np.ndarray, real: np.ndarray) -> float | None:
    """How far a mouth's opening varies by how far the real one's does: the ratio of their standard deviations.

    0 for a mouth at rest; None where the real one is at rest.
    """
    return None if at_rest(real) else float(np.std(openings) / np.std(real))


def moving_share(openings: np.ndarray) -> float:
    """The share of frames, 0 to 1, in which the mouth moves: within two frames to either side its opening varies by
    more than MOVING, 0.7 hundredths of the side.

    In 107 clips of 62 people, real mouths did so in 90 % of the frames in the midst of speech, and in 24 % of those
    where nobody had spoken for a quarter of a second and nobody was about to: some of these smile, breathe or swallow.
    The median there was 0.2, in speech 2.4; 0.5 would be 94 % and 31 %, 1.0 82 % and 18 %.
    """
    around = np.lib.stride_tricks.sliding_window_view(np.pad(openings, MOMENT, mode="edge"), 2 * MOMENT + 1)
    return float((np.ptp(around, axis=1) > MOVING).mean())


def leak(share: float, real_share: float) -> float | None:
    """How much a mouth moves in silence by how much the real one moves when it speaks, both by `moving_share`: people
    who move their mouths much leak much of it. None where the real one does not move.

    Above 1 is possible.
    """
    return share / real_share if real_share > 0 else None


def response(own: np.ndarray, other: np.ndarray) -> float:
    """1 - r of a face's openings, (N,) each, with its own sound and with another: 0 is a mouth that does not listen, 1
    one that does something else, 2 the opposite.

    If both are at rest, 0; if one of them is, 1.
    """
    resting = at_rest(own) + at_rest(other)
    return resting % 2 if resting else 1 - _correlation(own, other)


def agreement(one: np.ndarray, two: np.ndarray) -> float | None:
    """r of two openings, (N,) each, frame by frame, -1 to 1; None where one of them is at rest."""
    return None if at_rest(one) or at_rest(two) else _correlation(one, two)


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.corrcoef(one, two)[0, 1])


def envelope(samples: np.ndarray, frames: int, rate: int = 16000) -> np.ndarray:
    """The level of the sound at each frame: root mean square, smoothed over three frames, as its natural logarithm.

    Args:
        samples: (n,) int16; beyond them there is silence.

    Returns:
        (frames,) float64; the floor is -60 dBFS.
    """
    size = frames * rate // CLIP_FPS
    sound = np.zeros(size)
    sound[: len(samples)] = samples[:size] / 32768
    level = np.log(np.sqrt(np.square(sound.reshape(frames, -1)).mean(1)) + SILENCE)
    return np.convolve(np.pad(level, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")


def lagged_correlation(picture: np.ndarray, sound: np.ndarray, reach: int = 3) -> tuple[float, int]:
    """How a mouth's opening goes with another curve, (N,) each: Pearson's correlation at the lag of at most `reach`
    frames that makes it greatest.

    The best of seven is above zero even for curves that have nothing to do with each other: compare with a picture and
    another's sound.

    Returns:
        The correlation, 0 for a mouth at rest or a constant sound; the lag: `picture[i]` goes with `sound[i + lag]`.
    """
    found = []
    for lag in sorted(range(-reach, reach + 1), key=abs):
        here = slice(max(0, -lag), len(picture) - max(0, lag))
        x, y = picture[here], sound[here.start + lag : here.stop + lag]
        still = at_rest(x) or np.std(y) < 1e-6
        found.append((0.0 if still else _correlation(x, y), lag))
    return max(found, key=lambda pair: pair[0])
