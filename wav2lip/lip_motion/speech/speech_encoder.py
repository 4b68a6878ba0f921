"""The interface of speech encoders: samples of any length → feature vectors at a fixed rate."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from preprocessing.errors import UsageError

SAMPLE_RATE = 16000
RATE = Fraction(50)  # feature vectors per second of both encoders; row j is at j / 50 s
ROW_SAMPLES = SAMPLE_RATE // RATE.numerator  # from one row to the next

EncoderName = Literal["whisper", "mel"]


class Samples(Protocol):
    """(n,) samples that support slicing: an array, a memory map, or similar."""

    def __len__(self) -> int: ...

    def __getitem__(self, piece: slice, /) -> np.ndarray: ...


class SpeechEncoder(Protocol):
    """Encodes 16 kHz audio as `dimension` values, 50 times per second.

    Any range of rows can be computed, at a cost independent of the recording's length, and with the same values
    (within 1e-3) for any range.
    """

    name: EncoderName
    dimension: int

    def rows(self, samples: Samples, first: int, last: int) -> np.ndarray:
        """Computes rows first .. last - 1 of a recording.

        Args:
            samples: (n,) float, nominally -1 to 1, or int16, scaled by 32768; 16 kHz, mono, n >= 1.
            first, last: 0 <= first <= last <= row_count(n).

        Returns:
            (last - first, dimension) float32.
        """
        ...

    def release_memory(self) -> None:
        """Gives back what is kept between calls, at the end of a recording."""
        ...


def row_count(samples: int) -> int:
    """Number of rows for a number of samples: one at the start and one every 20 ms."""
    return samples * RATE.numerator // SAMPLE_RATE + 1


def encode(encoder: SpeechEncoder, samples: Samples) -> np.ndarray:
    """Computes all rows of (n,) samples: (row_count(n), dimension) float32."""
    return encoder.rows(samples, 0, row_count(len(samples)))


def open_encoder(name: EncoderName) -> SpeechEncoder:
    """Opens the encoder of that name.

    Raises:
        UsageError: the name is unknown, or the weights are missing or damaged.
    """
    if name == "whisper":
        from wav2lip.lip_motion.speech.whisper import WhisperSpeechEncoder

        return WhisperSpeechEncoder.load()
    if name == "mel":
        from wav2lip.lip_motion.speech.mel import MelEncoder

        return MelEncoder()
    raise UsageError(f"speech encoder must be 'whisper' or 'mel', not {name!r}")
