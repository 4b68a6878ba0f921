"""The lip motion of an utterance in a session: predicted while it arrives, or once it is whole."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor
from typing import Protocol

import numpy as np

from inference.live.sound import SPEECH_RATE, Speech, SpeechQueue
from wav2lip.lip_motion.data.clips import FPS
from wav2lip.lip_motion.motion import LipMotion, LipMotionModel, MotionRange
from wav2lip.lip_motion.streaming import STEP_FRAMES, MotionStream

LEAP = Fraction(1, 2)  # seconds between two frames after which the sound in between is left out
LEAD = Fraction(2, 5)  # seconds of sound before a frame that are heard then


class Motion(Protocol):
    """The lip motion of one utterance.

    Attributes:
        whole: the motion and the number of 16 kHz samples, if the utterance was known to its end from the beginning.
    """

    whole: tuple[LipMotion, int] | None

    def coefficients(self, time: Fraction) -> np.ndarray:
        """(1, K) float32 coefficients of the shape space at `time` seconds; zero some time after the end."""
        ...

    def guess(self, time: Fraction) -> np.ndarray:
        """(1, K) what they will probably be, a few frames ahead of the last `coefficients`."""
        ...


MotionSource = Callable[[Speech], Motion]


class StreamedMotion:
    """Predicts the motion while the sound arrives."""

    whole: tuple[LipMotion, int] | None = None

    def __init__(self, speech: Speech, queue: SpeechQueue, make: Callable[[], MotionStream]) -> None:
        self._speech, self._queue, self._make, self._stream = speech, queue, make, make()
        self._origin = Fraction(0)  # seconds of the utterance at which the stream begins
        self._last = Fraction(0)

    def coefficients(self, time: Fraction) -> np.ndarray:
        """See `Motion.coefficients`."""
        if time - self._last > LEAP:
            self._leap(time)
        self._last = time
        return self._at(time - self._origin)

    def _leap(self, time: Fraction) -> None:
        """Begins anew shortly before a time after many dropped frames: to predict all in between would drop more."""
        origin = floor((time - LEAD) * FPS / STEP_FRAMES) * Fraction(STEP_FRAMES, FPS)
        passed = int((origin - self._origin) * SPEECH_RATE) - self._stream.known
        if passed > 0:
            with self._queue.lock:
                self._speech.heard.take(passed)
            self._origin, self._stream = origin, self._make()

    def _at(self, time: Fraction) -> np.ndarray:
        needed = round(self._stream.seconds_needed(time) * SPEECH_RATE) - self._stream.known
        with self._queue.lock:
            samples = self._speech.heard.take(max(0, needed))
            ended = self._speech.ended and not len(self._speech.heard)
        self._stream.push(samples)
        if ended:
            self._stream.end()
        return self._stream.coefficients(time)

    def guess(self, time: Fraction) -> np.ndarray:
        """See `Motion.guess`."""
        return self._stream.guess(time - self._origin)


class WholeMotion:
    """The motion of an utterance that is known to its end: the same as for a file."""

    def __init__(self, model: LipMotionModel, span: MotionRange, samples: np.ndarray) -> None:
        self._motion = model.displacements(samples, gain=span.gain, rest_gap=span.rest_gap)
        self.whole: tuple[LipMotion, int] | None = self._motion, len(samples)

    def coefficients(self, time: Fraction) -> np.ndarray:
        """See `Motion.coefficients`."""
        return self._motion.coefficients_at([time])

    guess = coefficients


def motion_source(model: LipMotionModel, span: MotionRange, lookahead: float, queue: SpeechQueue) -> MotionSource:
    """Makes the motion of each utterance; an infinite look-ahead takes it as a whole."""

    def streamed(speech: Speech) -> Motion:
        return StreamedMotion(speech, queue, lambda: MotionStream(model, span, lookahead))

    def whole(speech: Speech) -> Motion:
        samples = speech.heard.take(len(speech.heard))
        return WholeMotion(model, span, samples if len(samples) else np.zeros(1, np.float32))

    return whole if np.isinf(lookahead) else streamed
