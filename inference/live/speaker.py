"""Speaks the queued sound frame by frame: the sound of each frame, and the lip motion at its time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from inference.live.motion import Motion, MotionSource
from inference.live.sound import SPEECH_RATE, Speech, SpeechQueue
from wav2lip.lip_motion.data.clips import FPS
from wav2lip.lip_motion.streaming import STEP_FRAMES

CLOSING = Fraction(2, 25)  # seconds in which an interrupted mouth closes
PATIENCE = 0.3  # seconds without new sound after which a short utterance is spoken without look-ahead
SKIPPED = Fraction(1, 2)  # seconds of dropped frames whose sound is still given
TAIL = Fraction(1)  # seconds after its end in which an utterance may still move the mouth


@dataclass(frozen=True)
class Speaking:
    """An utterance that is being spoken since frame `first`."""

    first: int
    speech: Speech
    motion: Motion


@dataclass(frozen=True)
class Said:
    """What is said during one frame.

    Attributes:
        pcm: (n,) float32, -1 to 1.
        coefficients: (1, K) float32 in the shape space.
        speaking: the utterance; None in between.
        heard: seconds of pushed sound before the one of this frame; None in between.
    """

    pcm: np.ndarray
    coefficients: np.ndarray
    speaking: Speaking | None
    heard: float | None


class Speaker:
    """Speaks a queue at a frame rate; used by one thread."""

    def __init__(
        self, queue: SpeechQueue, motions: MotionSource, components: int, fps: Fraction, lookahead: float
    ) -> None:  # fmt: skip
        self._queue, self._motions, self._fps = queue, motions, fps
        on_grid = (fps / FPS).denominator == 1 or (FPS / fps).denominator == 1
        first = STEP_FRAMES - 1 if on_grid else STEP_FRAMES
        self._buffered = lookahead + first / FPS  # seconds of sound to begin with
        self._rest = np.zeros((1, components), np.float32)
        self._shown = self._rest
        self._now: Speaking | None = None
        self._tail: Speaking | None = None
        self._closing: tuple[int, np.ndarray] | None = None

    def frame(self, number: int, skipped: int, now: float) -> Said:
        """Speaks frame `number`, after `skipped` frames that were dropped, at clock time `now`."""
        cut = self._queue.cut()
        if cut is not None:
            self._tail, self._now, self._closing = None, None, (number - 1, self._shown)
        if self._now is None:
            self._begin(number, now)
        speaking = self._now
        pcm = self._sound(number, skipped)
        if cut is not None and speaking is None:
            pcm[: len(cut)] += cut[: len(pcm)]
        self._shown = self._coefficients(number, speaking)
        heard = None if speaking is None else speaking.speech.start + float((number - speaking.first) / self._fps)
        return Said(pcm, self._shown, speaking, heard)

    def guesses(self, number: int, count: int) -> list[np.ndarray]:
        """Coefficients of the frames after `number` as far as they can be told."""
        speaking = self._now
        if speaking is None:
            return []
        return [speaking.motion.guess((number + k - speaking.first) / self._fps) for k in range(1, count + 1)]

    def _begin(self, number: int, now: float) -> None:
        speech = self._queue.head()
        if speech is None:
            return
        waited = now - speech.since > PATIENCE and np.isfinite(self._buffered)
        if speech.ended or waited or speech.arrived / SPEECH_RATE >= self._buffered:
            self._now = Speaking(number, speech, self._motions(speech))

    def _sound(self, number: int, skipped: int) -> np.ndarray:
        """The sound of a frame, and of the dropped ones before it if they are few."""
        before = self._sample(number) - self._sample(number - skipped)
        pcm = np.zeros(before + self._sample(number + 1) - self._sample(number), np.float32)
        if self._now is not None:
            first = before if self._now.first == number else 0
            taken = self._take(self._now.speech, len(pcm) - first)
            pcm[first : first + len(taken)] = taken
        return pcm if skipped / self._fps <= SKIPPED else pcm[before:]

    def _take(self, speech: Speech, count: int) -> np.ndarray:
        """Up to `count` samples; an utterance without any more is over."""
        taken = self._queue.take(speech, count)
        with self._queue.lock:
            if len(taken) < count:
                speech.finish()
                taken = np.concatenate([taken, self._queue.take(speech, count - len(taken))])
            if speech.ended and not len(speech.sound):
                self._queue.remove(speech)
                self._tail, self._now = self._now, None
        return taken

    def _sample(self, number: int) -> int:
        return int(number * self._queue.rate / self._fps)

    def _coefficients(self, number: int, speaking: Speaking | None) -> np.ndarray:
        """The motion of this utterance, of what is left of the last one, and of an interrupted one."""
        total: np.ndarray = self._rest
        for part in {id(part): part for part in (speaking, self._tail) if part is not None}.values():
            total = total + part.motion.coefficients((number - part.first) / self._fps)
        if self._closing is not None:
            first, shown = self._closing
            share = max(Fraction(0), 1 - (number - first) / self._fps / CLOSING)
            total = total + shown * np.float32(share)
            self._closing = self._closing if share else None
        self._forget_tail(number)
        return total

    def _forget_tail(self, number: int) -> None:
        tail = self._tail
        if tail is not None:
            end = Fraction(tail.speech.arrived, SPEECH_RATE) + TAIL
            self._tail = None if (number - tail.first) / self._fps > end else tail
