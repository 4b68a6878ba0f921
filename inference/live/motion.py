"""The lip motion of an utterance in a session: predicted while it arrives, or once it is whole."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

import numpy as np

from inference.live.sound import SPEECH_RATE, Speech, SpeechQueue
from wav2lip.lip_motion.motion import LipMotion, LipMotionModel, MotionRange
from wav2lip.lip_motion.streaming import MotionStream


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

    whole = None

    def __init__(self, speech: Speech, queue: SpeechQueue, stream: MotionStream) -> None:
        self._speech, self._queue, self._stream = speech, queue, stream

    def coefficients(self, time: Fraction) -> np.ndarray:
        """See `Motion.coefficients`."""
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
        return self._stream.guess(time)


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
        return StreamedMotion(speech, queue, MotionStream(model, span, lookahead))

    def whole(speech: Speech) -> Motion:
        samples = speech.heard.take(len(speech.heard))
        return WholeMotion(model, span, samples if len(samples) else np.zeros(1, np.float32))

    return whole if np.isinf(lookahead) else streamed
