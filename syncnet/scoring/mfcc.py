"""Mel-frequency cepstral coefficients, the audio features of syncnet_python's network."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.fft import dct

RATE, FRAME, HOP, FFT = 16000, 400, 160, 512  # samples
FILTERS, CEPSTRA, LIFTER, PREEMPHASIS = 26, 13, 22, 0.97


def mfcc(samples: np.ndarray, first: int = 0, stop: int | None = None) -> np.ndarray:
    """Computes MFCCs like python_speech_features 0.6 with its defaults.

    Pre-emphasis, 25 ms frames without a window function, power spectrum, 26 triangular filters, log, DCT, lifter; the
    first coefficient is replaced by the log of the frame's energy.

    Args:
        samples: (n,) int16 at 16 kHz, n >= 1; the last frame is zero-padded.
        first, stop: range of columns, 100 a second; all columns by default.

    Returns:
        (13, stop - first) float64.
    """
    total = 1 + max(0, -(-(len(samples) - FRAME) // HOP))
    starts = np.arange(first, total if stop is None else min(stop, total)) * HOP
    index = starts[:, None] + np.arange(FRAME)
    inside = np.minimum(index, len(samples) - 1)
    previous = np.where(inside > 0, samples[inside - 1], 0).astype(np.float64)
    frames = np.where(index < len(samples), samples[inside] - PREEMPHASIS * previous, 0.0)
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    coefficients = dct(np.log(_nonzero(power @ _mel_filters().T)), type=2, axis=1, norm="ortho")[:, :CEPSTRA]
    coefficients *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    coefficients[:, 0] = np.log(_nonzero(power.sum(1)))
    return coefficients.T


def _nonzero(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.finfo(float).eps, values)


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    """(26, 257) triangular filters, equally spaced on the mel scale 2595 log10(1 + f / 700), corners on bins."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), FILTERS + 2)
    corners = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE)
    bins = np.arange(FFT // 2 + 1)
    return np.stack([np.interp(bins, corners[k : k + 3], [0, 1, 0]) for k in range(FILTERS)])
