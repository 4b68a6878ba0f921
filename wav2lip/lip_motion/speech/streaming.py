"""The speech encoder for speech that is still arriving: each step computes only the rows that new samples change.

The attention of the encoder reaches far ahead. A stream cannot wait for that, so the newest `REVISED` rows are computed
again with every step, and older ones are frozen: their keys and values are kept, and nothing before them is computed
twice. The end of what is known is continued by its mirror image, as at the end of a recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from preprocessing.compiled_networks import Network, load_network
from wav2lip.lip_motion.speech.speech_encoder import ROW_SAMPLES, Samples, SpeechEncoder, row_count
from wav2lip.lip_motion.speech.whisper import CODE, WEIGHTS, WhisperSpeechEncoder, load_whisper
from wav2lip.lip_motion.speech.whisper_config import BLOCKS, EDGE_ROWS, HEADS, REACH, TAPS, WIDTH

if TYPE_CHECKING:
    from torch import Tensor, nn

REVISED = 20  # newest rows, computed again with every step: 0.4 s
MIRRORED = 16  # rows of mirror image after the last sample: 0.32 s
LEAD_ROWS = 25  # rows of silence before the first sample: 0.5 s
KEPT = 160  # frozen rows whose features are kept: enough for a look-ahead of 2 s


class EncoderStream(Protocol):
    """Encodes one utterance in steps; row j is at j / 50 s, rows below 0 are the silence before it."""

    def step(self, samples: np.ndarray) -> tuple[int, np.ndarray]:
        """Appends samples and encodes.

        Args:
            samples: (n,) float32, 16 kHz; the next ones.

        Returns:
            The number of the first row, and (R, D) float32 rows up to `MIRRORED` beyond the last sample.
        """
        ...


def open_stream(encoder: SpeechEncoder) -> EncoderStream:
    """A stream for one utterance; streams share the encoder's weights."""
    return WhisperStream(step_network()) if isinstance(encoder, WhisperSpeechEncoder) else WindowStream(encoder)


class WindowStream:
    """Encodes the last `KEPT` rows anew with every step; for encoders without a cheaper way."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self._encoder = encoder
        self._samples = np.zeros(2 * KEPT * ROW_SAMPLES, np.float32)
        self._first = -KEPT  # row of the first one returned

    def step(self, samples: np.ndarray) -> tuple[int, np.ndarray]:
        """See `EncoderStream.step`."""
        whole = np.concatenate([self._samples, samples])
        surplus = max(len(whole) // ROW_SAMPLES - 2 * KEPT, 0)
        self._samples, self._first = whole[surplus * ROW_SAMPLES :], self._first + surplus
        piece: Samples = mirrored(self._samples)
        return self._first, self._encoder.rows(piece, KEPT, row_count(len(piece)))


def mirrored(samples: np.ndarray) -> np.ndarray:
    """(n,) samples, continued by up to `MIRRORED` rows of their mirror image."""
    count = min(MIRRORED * ROW_SAMPLES, len(samples) - 1)
    return np.concatenate([samples, samples[-2 : -2 - count : -1]])


class WhisperStream:
    """The stream of a `WhisperSpeechEncoder`."""

    def __init__(self, run: Network) -> None:
        self._run = run
        self._samples = np.zeros(LEAD_ROWS * ROW_SAMPLES, np.float32)
        self._first = EDGE_ROWS - LEAD_ROWS  # first row that is not frozen; `_samples` begin `EDGE_ROWS` before it
        self._past = 0  # frozen rows in the attention window
        self._keys = np.zeros((BLOCKS, HEADS, REACH, WIDTH // HEADS), np.float32)
        self._values = self._keys
        self._features = np.zeros((0, len(TAPS) * WIDTH), np.float32)

    def step(self, samples: np.ndarray) -> tuple[int, np.ndarray]:
        """See `EncoderStream.step`."""
        self._samples = np.concatenate([self._samples, samples])
        piece = mirrored(self._samples)
        mask = self._mask(row_count(len(piece)) - EDGE_ROWS)
        numbers = np.arange(row_count(len(piece)), dtype=np.float32) + (self._first - EDGE_ROWS)
        features, *past = self._run(piece[None], np.maximum(numbers, 0), self._keys, self._values, mask)
        every = np.concatenate([self._features, features])
        first = self._first - len(self._features)
        self._freeze(max(0, row_count(len(self._samples)) - EDGE_ROWS - REVISED), every, past)
        return first, every

    def _mask(self, rows: int) -> np.ndarray:
        """(rows, REACH + rows) float32, 0 where a row may attend, -inf elsewhere."""
        position = np.arange(REACH + rows)
        near = np.abs(position[REACH:, None] - position) <= REACH
        return np.where(near & (position >= REACH - self._past), 0, -np.inf).astype(np.float32)

    def _freeze(self, count: int, features: np.ndarray, past: Sequence[np.ndarray]) -> None:
        """Moves the first `count` new rows to the past, and drops what no later step needs."""
        keys, values = past
        self._keys, self._values = (each[:, :, count : count + REACH].copy() for each in (keys, values))
        self._features = features[: len(self._features) + count][-KEPT:].copy()
        self._samples = self._samples[count * ROW_SAMPLES :]
        self._first, self._past = self._first + count, min(self._past + count, REACH)


@cache
def step_network() -> Network:
    """The network of a step, `WhisperStep`, loaded once.

    Raises:
        UsageError: the speech encoder's weights are missing or damaged.
    """
    past = (BLOCKS, HEADS, REACH, WIDTH // HEADS)
    shapes = [(1, -1), (-1,), past, past, (-1, -1)]
    return load_network("speech-step", (WEIGHTS, Path(__file__), *CODE), _network, shapes)


def _network() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module of a step and example inputs, for `load_network`."""
    import torch

    from wav2lip.lip_motion.speech.whisper_network import WhisperStep

    rows, past = 40, torch.zeros(BLOCKS, HEADS, REACH, WIDTH // HEADS)
    samples = 0.1 * torch.randn(1, (rows + EDGE_ROWS - 1) * ROW_SAMPLES, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(rows + EDGE_ROWS).float()
    return WhisperStep(load_whisper()).eval(), (samples, numbers, past, past, torch.zeros(rows, REACH + rows))
