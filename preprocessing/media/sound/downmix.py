"""Mixes any number of channels to one, without letting channels of opposite polarity cancel each other."""

from collections.abc import Iterator

import numpy as np

BLOCK = 1.0  # seconds whose polarity is decided jointly
MEMORY = 0.8  # weight of the past in that decision, per block
OPPOSITE = -0.5  # a channel below this correlation with the loudest one is turned over
FADE = 0.01  # seconds over which a channel's sign changes

Pieces = Iterator[tuple[int, np.ndarray]]


def mono(pieces: Pieces) -> Pieces:
    """Averages the channels of (samples per second, (C, n) float32) pieces; yields (samples per second, (n,) float32).

    In some recordings one channel is the negative of another (a microphone cable of reversed polarity, "wide" stereo):
    each ear hears them, but their mean is silent. Such channels count with the opposite sign.
    """
    mixer: _Mixer | None = None
    for rate, samples in pieces:
        if mixer is not None and (mixer.rate, mixer.channels) != (rate, len(samples)):
            yield from mixer.flush()
            mixer = None
        if len(samples) == 1:
            yield rate, samples[0]
            continue
        mixer = mixer or _Mixer(rate, len(samples))
        yield from mixer.push(samples)
    if mixer is not None:
        yield from mixer.flush()


class _Mixer:
    """Mixes block by block; the signs of a block follow from it and, less and less, from those before."""

    def __init__(self, rate: int, channels: int) -> None:
        self.rate, self.channels = rate, channels
        self._size = max(1, round(BLOCK * rate))
        self._waiting: list[np.ndarray] = []
        self._length = 0
        self._products = np.zeros((channels, channels))
        self._signs: np.ndarray | None = None

    def push(self, samples: np.ndarray) -> Pieces:
        self._waiting.append(samples)
        self._length += samples.shape[1]
        if self._length >= self._size:
            yield from self.flush()

    def flush(self) -> Pieces:
        if self._length:
            block = np.concatenate(self._waiting, axis=1)
            self._waiting, self._length = [], 0
            yield self.rate, self._mixed(block)

    def _mixed(self, block: np.ndarray) -> np.ndarray:
        self._products = MEMORY * self._products + (block @ block.T)
        signs = self._chosen_signs()
        before, self._signs = self._signs, signs
        mixed = signs @ block
        if before is not None and not np.array_equal(before, signs):
            fade = np.minimum(np.arange(block.shape[1]) / (FADE * self.rate), 1).astype(np.float32)
            mixed = fade * mixed + (1 - fade) * (before @ block)
        return mixed / np.float32(self.channels)

    def _chosen_signs(self) -> np.ndarray:
        """(C,) float32, 1 or -1; the first channel that is not turned over keeps its own."""
        power = np.diag(self._products)
        loudest = int(np.argmax(power))
        norm = np.sqrt(power * power[loudest])
        alike = np.divide(self._products[loudest], norm, out=np.zeros(self.channels), where=norm > 0)
        signs = np.where(alike < OPPOSITE, -1, 1).astype(np.float32)
        return signs * signs[0]
