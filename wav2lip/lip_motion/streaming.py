"""Lip motion of speech that is still arriving: displacements at any time, with a bounded look-ahead.

The motion is predicted in steps of `STEP_FRAMES` frames. A step uses the samples up to `lookahead` seconds after its
last frame and none beyond, so the result does not depend on when and in what pieces the samples arrive.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np

from preprocessing.errors import UsageError
from wav2lip.lip_motion.data.clips import FPS
from wav2lip.lip_motion.motion import FADE_FRAMES, LipMotionModel, MotionRange
from wav2lip.lip_motion.motion_config import ROWS_PER_FRAME
from wav2lip.lip_motion.silence import rest_in_silence, speech_frames, talking_share
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE
from wav2lip.lip_motion.speech.streaming import open_stream

STEP_FRAMES = 2  # 80 ms
GUESSED = 2  # frames after those decided that a step predicts as well
MAX_LOOKAHEAD = 2.0  # seconds
PER_FRAME = SAMPLE_RATE // FPS
LEVEL_WINDOW = 8 * SAMPLE_RATE  # samples by which speech is told from silence
WINDOW_STEP = 5 * PER_FRAME  # samples; the window moves by whole frames and whole columns of the spectrogram
KEPT_FRAMES = 50  # frames behind the last requested one whose motion is kept


class MotionStream:
    """Predicts the lip motion of one utterance.

    Attributes:
        known: number of samples pushed.
        ended: whether these are all.
    """

    def __init__(self, model: LipMotionModel, motion_range: MotionRange, lookahead: float) -> None:
        """
        Args:
            lookahead: seconds of sound after a frame that it depends on.

        Raises:
            UsageError: the look-ahead is not from 0 to `MAX_LOOKAHEAD`.
        """
        if not 0 <= lookahead <= MAX_LOOKAHEAD:
            raise UsageError(f"the look-ahead of a stream must be from 0 to {MAX_LOOKAHEAD:g} s, not {lookahead}")
        self._model, self._ahead = model, round(lookahead * SAMPLE_RATE)
        self._scale = model.gain if motion_range.gain is None else motion_range.gain
        self._rest_gap = motion_range.rest_gap / self._scale
        self._encoder = open_stream(model.encoder)
        self._waiting: list[np.ndarray] = []
        self._heard = np.zeros(0, np.float32)  # the last samples that a step has used, for their level
        self._used = 0
        self._first = 0  # frame of the first row kept
        self._rows = np.zeros((0, model.space.components), np.float32)
        self._guessed = self._rows  # of the frames after those
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
        return self._needed(ceil(time * FPS) // STEP_FRAMES) / SAMPLE_RATE

    def coefficients(self, time: Fraction) -> np.ndarray:
        """(1, K) float32 coefficients of the shape space at `time` seconds.

        Linear between frames; if less sound than the look-ahead is known, predicted as if it ended there. Times must
        not go back by more than two seconds.
        """
        left, share = divmod(time * FPS, 1)
        self._advance(left + (share > 0))
        weight = np.float32(share)
        return (self._row(left) * (1 - weight) + self._row(left + 1) * weight)[None]

    def guess(self, time: Fraction) -> np.ndarray:
        """(1, K) coefficients a few frames ahead, from what is known now; later sound may change them."""
        rows = np.concatenate([self._rows, self._guessed])
        index = round(time * FPS) - self._first
        return rows[max(min(index, len(rows) - 1), 0)][None]

    def _needed(self, step: int) -> int:
        """Samples that a step uses."""
        return (STEP_FRAMES * (step + 1) - 1) * PER_FRAME + self._ahead

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
        last = min(first + STEP_FRAMES, self._length()) if self.ended else first + STEP_FRAMES
        start, features = self._encoder.step(self._take(min(self._needed(first // STEP_FRAMES), self.known)))
        predicted = self._predict(first, last + GUESSED, start, features)
        self._rows = np.concatenate([self._rows, predicted[: last - first]])
        self._guessed = predicted[last - first :]

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
        config = self._model.config
        begin = ROWS_PER_FRAME * (first - config.before) - 1
        stop = ROWS_PER_FRAME * (last + config.after) + 1
        rows = features[np.clip(np.arange(begin, stop) - start, 0, len(features) - 1)]
        coefficients, logits = self._model.run(rows[None])
        talking = self._talking(first, last)
        return rest_in_silence(coefficients[0], logits[0], talking, self._model.space, self._rest_gap)

    def _talking(self, first: int, last: int) -> np.ndarray:
        """(last - first,) share of speech, see `talking_share`."""
        if not len(self._heard):
            return np.zeros(last - first, np.float32)
        window = (self._used - len(self._heard)) // PER_FRAME
        share = talking_share(speech_frames(self._heard))
        return share[np.clip(np.arange(first, last) - window, 0, len(share) - 1)]
