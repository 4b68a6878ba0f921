"""The constant rate at which a video's frames are read."""

from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

SLOWEST, FASTEST, DEFAULT_FPS = Fraction(1), Fraction(1000), Fraction(25)
# Lips need 24 frames per second; 23.976 counts as 24. Faster than 60, pictures only cost time.
SLOWEST_SPEECH, FASTEST_SPEECH = Fraction(239, 10), Fraction(601, 10)
USUAL = (
    Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(48), Fraction(50),
    Fraction(60000, 1001), Fraction(60), Fraction(120), Fraction(240),
)  # fmt: skip


def header_rate(stream: av.VideoStream) -> Fraction | None:
    """The nominal rate (30000/1001 rather than the mean 19001/634); None if only the time stamps tell it.

    FFmpeg's guess is the finest interval seen: a multiple of the true rate in some files, and in screen recordings
    just the resolution of the time stamps.
    """
    nominal, mean = _sane(stream.guessed_rate), _sane(stream.average_rate)
    return nominal if nominal and mean and nominal < Fraction(3, 2) * mean else None


def stamped_rate(times: Sequence[Fraction | float]) -> Fraction | None:
    """The rate of the usual distance between time stamps in seconds: a still stretch of a variable rate has few."""
    steps = np.diff(np.unique(np.asarray(times, float)))
    if not len(steps):
        return None
    middle = np.sort(steps)[(len(steps) - 1) // 2]  # the lower median
    rate = 1 / float(np.mean(steps[np.abs(steps / middle - 1) < 0.5]))  # the mean: stamps may be whole milliseconds
    near = min(USUAL, key=lambda usual: abs(usual / rate - 1))
    return near if abs(near / rate - 1) < 0.005 else _sane(Fraction(rate).limit_denominator(1001))


def speech_rate(rate: Fraction) -> Fraction:
    """The rate to read at: a multiple or a divisor of `rate`, so that all frames are held equally long."""
    if rate < SLOWEST_SPEECH:
        return rate * -(-24 // rate)
    return rate / -(-rate // FASTEST_SPEECH)


def _sane(rate: Fraction | None) -> Fraction | None:
    return rate if rate and SLOWEST <= rate <= FASTEST else None
