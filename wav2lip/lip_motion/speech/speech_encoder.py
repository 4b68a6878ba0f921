"""The contract of speech encoders: samples of any length in, vectors at a fixed rate out, row by row."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from preprocessing.errors import UsageError

SAMPLE_RATE = 16000
RATE = Fraction(50)  # vectors a second of both encoders; row j belongs to second j / 50

EncoderName = Literal["hama", "mel"]


class Samples(Protocol):
    """(n,) samples that are read piece by piece: an array, a memory map, or what behaves so."""

    def __len__(self) -> int: ...

    def __getitem__(self, piece: slice, /) -> np.ndarray: ...


class SpeechEncoder(Protocol):
    """Turns 16 kHz sound into `dimension` numbers, 50 times a second.

    Any stretch of rows can be asked for, at a cost that does not depend on the recording's length; it is the same,
    whichever stretches are asked for (within 1e-3).
    """

    name: EncoderName
    dimension: int

    def rows(self, samples: Samples, first: int, last: int) -> np.ndarray:
        """Rows first .. last - 1 of a recording.

        Args:
            samples: (n,) float, nominally -1 to 1, or int16 that is 32768 times as much; 16 kHz, mono, n >= 1.
            first, last: 0 <= first <= last <= row_count(n).

        Returns:
            (last - first, dimension) float32.
        """
        ...


def row_count(samples: int) -> int:
    """Rows of so many samples: one at the start and one after every 20 ms."""
    return samples * RATE.numerator // SAMPLE_RATE + 1


def encode(encoder: SpeechEncoder, samples: Samples) -> np.ndarray:
    """(n,) samples → (row_count(n), dimension) float32, all rows at once."""
    return encoder.rows(samples, 0, row_count(len(samples)))


def as_float(samples: np.ndarray) -> np.ndarray:
    """(n,) float or int16 samples as float32, nominally -1 to 1; values that are not numbers become zero."""
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def open_encoder(name: EncoderName) -> SpeechEncoder:
    """The encoder of that name.

    Raises:
        UsageError: there is none, or its weights are not installed; the message says how to get them.
    """
    if name == "hama":
        from wav2lip.lip_motion.speech.hama import HamaEncoder

        return HamaEncoder.load()
    if name == "mel":
        from wav2lip.lip_motion.speech.mel import MelEncoder

        return MelEncoder()
    raise UsageError(f"a speech encoder is 'hama' or 'mel', not {name!r}")
