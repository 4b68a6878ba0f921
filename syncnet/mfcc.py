"""Mel-frequency cepstral coefficients, the sound that syncnet_python's network hears."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.fft import dct

RATE, FRAME, HOP, FFT = 16000, 400, 160, 512  # samples
FILTERS, CEPSTRA, LIFTER, PREEMPHASIS = 26, 13, 22, 0.97


def mfcc(samples: np.ndarray, first: int = 0, stop: int | None = None) -> np.ndarray:
    """Mel-frequency cepstral coefficients as python_speech_features 0.6 computes them with its defaults.

    Pre-emphasis, frames of 25 ms without a window function, power spectrum, 26 triangles, log, DCT, lifter; the first
    coefficient gives place to the log of the frame's energy.

    Args:
        samples: (n,) int16 at 16 kHz, n >= 1; the last frame is filled with zeros.
        first, stop: the columns wanted, 100 a second; all of them if nothing is said.

    Returns:
        (13, stop - first) float64.
    """
    total = 1 + max(0, -(-(len(samples) - FRAME) // HOP))
    starts = np.arange(first, total if stop is None else min(stop, total)) * HOP
    place = starts[:, None] + np.arange(FRAME)
    inside = np.minimum(place, len(samples) - 1)
    before = np.where(inside > 0, samples[inside - 1], 0).astype(np.float64)
    frames = np.where(place < len(samples), samples[inside] - PREEMPHASIS * before, 0.0)
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    coefficients = dct(np.log(_positive(power @ _triangles().T)), type=2, axis=1, norm="ortho")[:, :CEPSTRA]
    coefficients *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    coefficients[:, 0] = np.log(_positive(power.sum(1)))
    return coefficients.T


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.finfo(float).eps, values)


@lru_cache(maxsize=1)
def _triangles() -> np.ndarray:
    """(26, 257) filters, equally spaced on the mel scale 2595 log10(1 + f / 700), with corners on whole bins."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), FILTERS + 2)
    corners = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE)
    bins = np.arange(FFT // 2 + 1)
    return np.stack([np.interp(bins, corners[k : k + 3], [0, 1, 0]) for k in range(FILTERS)])
