"""The sound that a session has yet to speak: pushed from any thread in pieces of any size and rate, bounded."""

from __future__ import annotations

import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soxr

from preprocessing.errors import UsageError

SPEECH_RATE = 16000  # samples per second that the networks hear
SLOWEST, FASTEST = 4000, 384_000  # accepted sample rates
CUT = 0.01  # seconds over which interrupted sound fades out


class Fifo:
    """(n,) float32 samples, first in, first out."""

    def __init__(self) -> None:
        self._pieces: deque[np.ndarray] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, samples: np.ndarray) -> None:
        """Appends samples."""
        if len(samples):
            self._pieces.append(samples)
            self._count += len(samples)

    def take(self, count: int) -> np.ndarray:
        """Removes and returns the first `count` samples, or as many as there are."""
        taken: list[np.ndarray] = []
        count = min(count, self._count)
        self._count -= count
        while count > 0:
            piece = self._pieces.popleft()
            if len(piece) > count:
                self._pieces.appendleft(piece[count:])
            taken.append(piece[:count])
            count -= len(taken[-1])
        return np.concatenate(taken) if taken else np.zeros(0, np.float32)


class _Resampler:
    """Resamples a stream whose rate may change (soxr, HQ)."""

    def __init__(self, rate: int) -> None:
        self._rate, self._source = rate, 0
        self._stream: Any = None  # of the rate `_source`

    def push(self, samples: np.ndarray, rate: int) -> np.ndarray:
        rest = self.finish() if rate != self._source else np.zeros(0, np.float32)
        if self._stream is None:
            self._source = rate
            self._stream = soxr.ResampleStream(rate, self._rate, 1, dtype="float32", quality="HQ")
        return np.concatenate([rest, self._stream.resample_chunk(samples)])

    def finish(self) -> np.ndarray:
        """What the filter still holds."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream, self._source = None, 0
        return rest


@dataclass
class Speech:
    """One utterance: its sound for the networks and for the listener, as far as it has arrived.

    Attributes:
        start: seconds of sound pushed before it.
        heard: for the networks, 16 kHz.
        sound: for the listener.
        ended: whether no more follows.
        since: time of the last push.
    """

    rate: int
    start: float
    heard: Fifo = field(default_factory=Fifo)
    sound: Fifo = field(default_factory=Fifo)
    arrived: int = 0
    ended: bool = False
    since: float = 0.0

    def __post_init__(self) -> None:
        self._resamplers = (_Resampler(SPEECH_RATE), _Resampler(self.rate))

    def add(self, samples: np.ndarray, rate: int, now: float) -> None:
        """Appends (n,) float32 samples."""
        for_networks, for_listener = (resampler.push(samples, rate) for resampler in self._resamplers)
        self._store(for_networks, for_listener)
        self.since = now

    def finish(self) -> None:
        """Ends the utterance."""
        if not self.ended:
            self._store(*(resampler.finish() for resampler in self._resamplers))
            self.ended = True

    def _store(self, for_networks: np.ndarray, for_listener: np.ndarray) -> None:
        self.heard.push(for_networks)
        self.sound.push(np.clip(for_listener, -1, 1))
        self.arrived += len(for_networks)


class SpeechQueue:
    """Utterances in the order in which they are to be spoken.

    Attributes:
        rate: samples per second for the listener.
        limit: seconds of sound that may wait.
    """

    def __init__(self, rate: int, limit: float) -> None:
        self.rate, self.limit = rate, limit
        self.lock = threading.RLock()
        self._room = threading.Condition(self.lock)
        self._speeches: deque[Speech] = deque()
        self._pushed = 0.0
        self._cut: np.ndarray | None = None
        self._closed = False

    def push(self, pcm: np.ndarray, rate: int, now: float, *, block: bool, timeout: float | None) -> None:
        """Appends sound; see `LiveSession.push`."""
        samples, rate = as_mono(pcm), checked_rate(rate)
        seconds = len(samples) / rate
        if seconds > self.limit:
            raise UsageError(f"{seconds:.1f} s of sound in one piece are more than the {self.limit:g} s that may wait")
        with self.lock:
            self._wait_for_room(seconds, block, timeout)
            if not self._speeches or self._speeches[-1].ended:
                self._speeches.append(Speech(self.rate, self._pushed, since=now))
            self._speeches[-1].add(samples, rate, now)
            self._pushed += seconds

    def _wait_for_room(self, seconds: float, block: bool, timeout: float | None) -> None:
        def fits() -> bool:
            return self._closed or self.waiting() + seconds <= self.limit

        if not fits() and not (block and self._room.wait_for(fits, timeout)):
            raise queue.Full
        if self._closed:
            raise UsageError("the session is closed")

    def waiting(self) -> float:
        """Seconds of sound not yet spoken."""
        with self.lock:
            return sum(len(speech.sound) for speech in self._speeches) / self.rate

    def end(self) -> None:
        """Ends the utterance that is being pushed."""
        with self.lock:
            if self._speeches:
                self._speeches[-1].finish()

    def head(self) -> Speech | None:
        """The utterance to be spoken now."""
        with self.lock:
            return self._speeches[0] if self._speeches else None

    def remove(self, speech: Speech) -> None:
        """Removes an utterance that has been spoken, unless it is gone already."""
        with self.lock:
            if self._speeches and self._speeches[0] is speech:
                self._speeches.popleft()
            self._room.notify_all()

    def take(self, speech: Speech, count: int) -> np.ndarray:
        """Up to `count` samples for the listener."""
        with self.lock:
            taken = speech.sound.take(count)
            self._room.notify_all()
            return taken

    def clear(self) -> None:
        """Drops everything; the utterance that is being spoken fades out."""
        with self.lock:
            tail = self._speeches[0].sound.take(round(CUT * self.rate)) if self._speeches else np.zeros(0, np.float32)
            self._cut = tail * np.linspace(1, 0, len(tail), dtype=np.float32)
            self._speeches.clear()
            self._room.notify_all()

    def cut(self) -> np.ndarray | None:
        """What still sounds of an utterance that was interrupted since the last call; None if none was."""
        with self.lock:
            tail, self._cut = self._cut, None
            return tail

    def close(self) -> None:
        """Drops everything and refuses more."""
        with self.lock:
            self._closed = True
            self._speeches.clear()
            self._room.notify_all()


def as_mono(pcm: np.ndarray) -> np.ndarray:
    """(n,) or (n, channels) int16 or float as (n,) float32, -1 to 1; non-finite samples become 0.

    Raises:
        UsageError: another type or shape.
    """
    samples = np.asarray(pcm)
    if samples.ndim not in (1, 2) or not (samples.dtype == np.int16 or np.issubdtype(samples.dtype, np.floating)):
        raise UsageError(
            f"pcm must be (n,) or (n, channels) int16 or float samples, not {samples.dtype} of shape {samples.shape}"
        )
    scale = np.float32(1 / 32768) if samples.dtype == np.int16 else np.float32(1)
    floats = np.nan_to_num(samples.astype(np.float32) * scale, nan=0.0, posinf=0.0, neginf=0.0)
    return floats if floats.ndim == 1 else floats.mean(axis=1, dtype=np.float32)


def checked_rate(rate: int) -> int:
    """The sample rate.

    Raises:
        UsageError: it is not an integer from `SLOWEST` to `FASTEST`.
    """
    if not (isinstance(rate, int | np.integer) and SLOWEST <= rate <= FASTEST):
        raise UsageError(f"the sample rate must be an integer from {SLOWEST} to {FASTEST}, not {rate!r}")
    return int(rate)
