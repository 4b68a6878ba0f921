"""Mel spectrograms, and the mapping from video frames to mel columns."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from preprocessing.media.audio import AudioConfig, as_float, release_pages

if TYPE_CHECKING:  # torch is imported where a mel spectrogram is computed: jobs without one start faster
    import torch

# The generator's window of a frame starts one frame of 25 per second before it: columns int(80 (k - 1) / 25) on for
# frame k. The original's training data does the same; its inference starts one frame later, which is a bug.
FRAME_LEAD = Fraction(1, 25)


@lru_cache(maxsize=4)
def _mel_basis(config: AudioConfig) -> torch.Tensor:
    """(n_mels, n_fft / 2 + 1) triangular filters, equally spaced on the Slaney mel scale, each with unit area.

    Source: Slaney, "Auditory Toolbox" (1998); equals librosa.filters.mel, without its two-second import.
    """
    import torch

    low, high = _slaney_mel(np.array([config.fmin, config.fmax]))
    edges = _slaney_hertz(np.linspace(low, high, config.n_mels + 2))
    bins = np.arange(config.n_fft // 2 + 1) * config.sample_rate / config.n_fft
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32))


def _slaney_mel(hertz: np.ndarray) -> np.ndarray:
    """Linear below 1000 Hz (15 mel), then 27 mel for a factor of 6.4."""
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def mel_spectrogram(
    samples: np.ndarray, config: AudioConfig = AudioConfig(), block: int = 4000
) -> np.ndarray:  # fmt: skip
    """The log-mel spectrogram of the released networks.

    Pre-emphasis, Hann STFT with reflection padding, magnitude, mel, 20 log10, normalized to -4 .. 4. Computed `block`
    columns at a time, so working memory stays constant.

    Args:
        samples: (n,) float, or int16 scaled by 32768, n >= 1; non-finite values count as 0.

    Returns:
        (n_mels, 1 + n // hop_length) float32, -max_abs_value to max_abs_value.
    """
    columns = mel_length(samples, config)
    mel = np.empty((config.n_mels, columns), np.float32)
    for first in range(0, columns, block):
        last = min(first + block, columns)
        mel[:, first:last] = mel_columns(samples, first, last, config)
    return mel


def mel_length(samples: np.ndarray, config: AudioConfig = AudioConfig()) -> int:
    """Number of columns of the mel spectrogram of (n,) samples."""
    return 1 + len(samples) // config.hop_length


def mel_columns(samples: np.ndarray, first: int, last: int, config: AudioConfig = AudioConfig()) -> np.ndarray:
    """Columns first .. last - 1 of `mel_spectrogram`, (n_mels, last - first), at least one."""
    import torch

    start = first * config.hop_length - config.n_fft // 2
    span = _preemphasized(samples, start, start + (last - 1 - first) * config.hop_length + config.n_fft, config)
    release_pages(samples)
    return _log_mel(torch.from_numpy(span), config).numpy()


def _preemphasized(samples: np.ndarray, start: int, stop: int, config: AudioConfig) -> np.ndarray:
    """Pre-emphasized samples start .. stop, float32; reflected beyond both ends."""
    end = len(samples) - 1
    position = np.abs((np.arange(start, stop) + end) % max(2 * end, 1) - end)
    before = np.where(position > 0, as_float(samples[position - 1]), np.float32(0))
    return as_float(samples[position]) - np.float32(config.preemphasis) * before


def _log_mel(samples: torch.Tensor, config: AudioConfig) -> torch.Tensor:
    import torch

    window = torch.hann_window(config.n_fft)
    spectrum = torch.stft(samples, config.n_fft, config.hop_length, window=window, center=False, return_complex=True)
    floor = 10.0 ** (config.min_level_db / 20)
    level = 20 * torch.log10((_mel_basis(config) @ spectrum.abs()).clamp_min(floor)) - config.ref_level_db
    top = config.max_abs_value
    return (2 * top * (level - config.min_level_db) / -config.min_level_db - top).clamp(-top, top)


class MelColumns(Protocol):
    """An (n_mels, T) array, or what computes its columns as they are read."""

    def __getitem__(self, part: tuple[slice, slice], /) -> np.ndarray:
        """The part, float32."""


def mel_window(
    mel: MelColumns,
    time: Fraction | float,
    config: AudioConfig = AudioConfig(),
    lead: Fraction = FRAME_LEAD,
) -> np.ndarray:
    """Mel columns for the frame shown at `time`: the single frame-to-mel mapping.

    The window starts at column floor(columns_per_second (time - lead)). Columns before the
    first and after the last are padded with silence, so every frame has a full window.

    Args:
        mel: (n_mels, T).
        time: seconds from the start of the audio.
        lead: seconds by which the window starts before `time`: FRAME_LEAD for the generator's frame, 0 for the
            sync expert's window of five frames, the first at `time`.

    Returns:
        (n_mels, window_columns), a copy.
    """
    # The epsilon absorbs float error: a time such as 7 / 25 may land just below its column.
    start = int(np.floor(float(config.columns_per_second * (Fraction(time) - lead)) + 1e-6))
    stop = start + config.window_columns
    inside = mel[:, max(start, 0) : max(stop, 0)]
    before = min(max(-start, 0), config.window_columns)
    after = config.window_columns - before - inside.shape[1]
    return np.pad(inside, ((0, 0), (before, after)), constant_values=-config.max_abs_value)
