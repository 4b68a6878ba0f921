"""Lip motion of speech that is still arriving: displacements at any time, with a bounded look-ahead.

The motion is predicted in steps of `HOP` frames. A step uses the samples up to `lookahead` seconds after its last frame
and none beyond, so the result does not depend on when and in what pieces the samples arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
import torch

from preprocessing.errors import UsageError
from wav2lip.lip_motion.data.clips import FPS
from wav2lip.lip_motion.model import ROWS_PER_FRAME
from wav2lip.lip_motion.motion import FADE_FRAMES, REST_GAP, LipMotion, LipMotionModel
from wav2lip.lip_motion.silence import rest_in_silence, speech_frames, talking_share
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE
from wav2lip.lip_motion.speech.streaming import open_stream

HOP = 2  # frames of a step: 80 ms
PER_FRAME = SAMPLE_RATE // FPS
LEVEL_WINDOW = 8 * SAMPLE_RATE  # samples by which speech is told from silence
WINDOW_STEP = 5 * PER_FRAME  # samples; the window moves by whole frames and whole columns of the spectrogram
KEPT_FRAMES = 50  # frames behind the last requested one whose motion is kept


@dataclass(frozen=True)
class Person:
    """How far one person's mouth moves.

    Attributes:
        gain: how much the face moves in speech, units; None for the median of the people in training.
        rest_gap: gap between the inner lips at rest, units.
    """

    gain: float | None = None
    rest_gap: float = REST_GAP


class Motion(Protocol):
    """The lip motion of one utterance."""

    def coefficients(self, time: Fraction) -> np.ndarray:
        """(1, K) float32 at `time` seconds; the face is at rest after the end."""
        ...


class MotionStream:
    """Predicts the lip motion of one utterance.

    Attributes:
        known: number of samples pushed.
        ended: whether these are all.
    """

    def __init__(self, model: LipMotionModel, person: Person, lookahead: float) -> None:
        """
        Args:
            lookahead: seconds of sound after a frame that it depends on.

        Raises:
            UsageError: the look-ahead is negative or infinite.
        """
        if not 0 <= lookahead < np.inf:
            raise UsageError(f"the look-ahead of a stream must be 0 s or more and finite, not {lookahead}")
        self._model, self._ahead = model, round(lookahead * SAMPLE_RATE)
        self._scale = model.gain if person.gain is None else person.gain
        self._rest_gap = person.rest_gap / self._scale
        self._encoder = open_stream(model.encoder)
        self._waiting: list[np.ndarray] = []
        self._heard = np.zeros(0, np.float32)  # the last samples that a step has used, for their level
        self._used = 0
        self._first = 0  # frame of the first row kept
        self._rows = np.zeros((0, model.trained.space.components), np.float32)
        self.known, self.ended = 0, False

    @property
    def frames(self) -> int:
        """Number of frames whose motion is decided."""
        return self._first + len(self._rows)

    def push(self, samples: np.ndarray) -> None:
        """Appends (n,) float32 samples at 16 kHz."""
        self._waiting.append(samples)
        self.known += len(samples)

    def end(self) -> None:
        """Tells that no more samples follow."""
        self.ended = True

    def seconds_needed(self, time: Fraction) -> float:
        """Seconds of sound that `coefficients` needs at a time, unless the sound ends before."""
        step = int(time * FPS + 1) // HOP
        return self._needed(step) / SAMPLE_RATE

    def coefficients(self, time: Fraction) -> np.ndarray:
        """(1, K) float32 coefficients of the shape space at `time` seconds.

        Linear between frames; if less sound than the look-ahead is known, predicted as if it ended there. Times must
        not go back by more than two seconds.
        """
        position = float(time * FPS)
        left = int(position)
        self._advance(left + 1)
        share = np.float32(position - left)
        return (self._row(left) * (1 - share) + self._row(left + 1) * share)[None]

    def _needed(self, step: int) -> int:
        """Samples that a step uses."""
        return (HOP * (step + 1) - 1) * PER_FRAME + self._ahead

    def _row(self, frame: int) -> np.ndarray:
        index = min(frame - self._first, len(self._rows) - 1)
        return self._rows[max(index, 0)]

    def _advance(self, frame: int) -> None:
        """Decides all frames up to `frame`."""
        while self.frames <= frame and not self._finished():
            self._step()
        surplus = frame - KEPT_FRAMES - self._first
        if surplus > 0 and len(self._rows) > surplus:
            self._rows, self._first = self._rows[surplus:], self._first + surplus

    def _length(self) -> int:
        """Frames of the sound known, as `LipMotionModel.displacements` counts them."""
        return self.known * FPS // SAMPLE_RATE + 1

    def _finished(self) -> bool:
        return self.ended and self.frames >= self._length() + FADE_FRAMES

    def _step(self) -> None:
        first = self.frames
        if self.ended and first >= self._length():
            fading = np.linspace(1, 0, FADE_FRAMES + 1, dtype=np.float32)[1:, None]
            self._rows = np.concatenate([self._rows, self._row(first)[None] * fading])
            return
        last = min(first + HOP, self._length()) if self.ended else first + HOP
        start, features = self._encoder.step(self._take(min(self._needed(first // HOP), self.known)))
        self._rows = np.concatenate([self._rows, self._predict(first, last, start, features)])

    def _take(self, until: int) -> np.ndarray:
        """The samples from the last used one to `until`."""
        whole = np.concatenate([*self._waiting, np.zeros(0, np.float32)])
        count = max(until - self._used, 0)
        taken, self._waiting = whole[:count], [whole[count:]]
        self._used += len(taken)
        self._heard = np.concatenate([self._heard, taken])
        surplus = (len(self._heard) - LEVEL_WINDOW) // WINDOW_STEP * WINDOW_STEP
        self._heard = self._heard[max(surplus, 0) :]
        return taken

    def _predict(self, first: int, last: int, start: int, features: np.ndarray) -> np.ndarray:
        """(last - first, K) coefficients of frames, from feature rows from `start` on."""
        config, trained = self._model.trained.network.config, self._model.trained
        begin = ROWS_PER_FRAME * (first - config.before) - 1
        stop = ROWS_PER_FRAME * (last + config.after) + 1
        rows = features[np.clip(np.arange(begin, stop) - start, 0, len(features) - 1)]
        with torch.inference_mode():
            coefficients, logits = (part[0].numpy() for part in trained.network(torch.from_numpy(rows)[None]))
        talking = self._talking(first, last)
        return rest_in_silence(coefficients, logits, talking, trained.space, self._rest_gap)

    def _talking(self, first: int, last: int) -> np.ndarray:
        """(last - first,) share of speech, see `talking_share`."""
        if not len(self._heard):
            return np.zeros(last - first, np.float32)
        window = (self._used - len(self._heard)) // PER_FRAME
        share = talking_share(speech_frames(self._heard))
        return share[np.clip(np.arange(first, last) - window, 0, len(share) - 1)]


@dataclass(frozen=True)
class WholeMotion:
    """The lip motion of an utterance that is known to its end: the same as for a file."""

    motion: LipMotion

    @classmethod
    def of(cls, model: LipMotionModel, samples: np.ndarray, person: Person) -> WholeMotion:
        """Predicts the motion of (n,) samples at 16 kHz."""
        return cls(model.displacements(samples, gain=person.gain, rest_gap=person.rest_gap))

    def coefficients(self, time: Fraction) -> np.ndarray:
        """See `Motion.coefficients`."""
        return self.motion.coefficients_at([time])
