"""Where a recording has speech, by mel column."""

from __future__ import annotations

import numpy as np

from preprocessing.media.audio import AudioConfig, as_float, release_pages


def speech_columns(
    samples: np.ndarray, config: AudioConfig = AudioConfig(), shortest_pause: float = 0.2, margin: float = 0.06
) -> np.ndarray:
    """Energy-based voice activity detection with hysteresis: one flag per mel column.

    Speech ends where the 50 ms level falls below a threshold and begins where it rises 6 dB above it. The
    threshold is 6 dB above the recording's quiet parts (the 10th percentile of the level), but 22 to 38 dB below its
    loud parts (the 95th), so that a recording without pauses has none, and never below -60 dBFS. A pause shorter than
    `shortest_pause` seconds (the closure of a plosive) counts as speech; speech is then extended by `margin` seconds
    on both sides.

    The numbers fit GRID's word alignments: there words peak within 11 dB of the loud parts, and pauses lie 20 to
    37 dB below them.

    Args:
        samples: as for `mel_spectrogram`. Working memory grows by only a few numbers per column.

    Returns:
        (1 + n // hop_length,) bool.
    """
    level = _level_db(samples, config)
    quiet, loud = np.percentile(level, (10, 95))
    off = max(min(max(quiet + 6, loud - 38), loud - 22), -60.0)
    above, starts = level > off, level > off + 6
    speech = np.zeros(len(level), bool)
    for first, last in _runs(above):
        speech[first:last] = starts[first:last].any()
    rate = float(config.columns_per_second)
    for first, last in _runs(~speech):
        if last - first < shortest_pause * rate and first > 0 and last < len(speech):
            speech[first:last] = True
    reach = round(margin * rate)
    return np.convolve(speech, np.ones(2 * reach + 1))[reach : reach + len(speech)] > 0.5


def _level_db(samples: np.ndarray, config: AudioConfig, block: int = 4000) -> np.ndarray:
    """Root mean square level of `n_fft` samples around each column, dBFS; `block` columns at a time."""
    power = np.empty(1 + len(samples) // config.hop_length)
    for start in range(0, len(power), block):
        center = np.arange(start, min(start + block, len(power))) * config.hop_length
        first = np.clip(center - config.n_fft // 2, 0, len(samples))
        last = np.clip(center + config.n_fft // 2, 0, len(samples))
        span = as_float(samples[first[0] : last[-1]]).astype(np.float64)
        energy = np.concatenate(([0.0], np.cumsum(span**2)))
        power[start : start + block] = energy[last - first[0]] - energy[first - first[0]]
        power[start : start + block] /= np.maximum(last - first, 1)
        release_pages(samples)
    return 10 * np.log10(np.maximum(power, 1e-12))


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and one-past-last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def rest_in_silence(mel: np.ndarray, speech: np.ndarray, config: AudioConfig = AudioConfig()) -> np.ndarray:
    """Replaces non-speech columns with digital silence, so that room noise does not move the mouth.

    Args:
        mel: (n_mels, T).
        speech: (T,) bool, from `speech_columns`.

    Returns:
        (n_mels, T), a copy.
    """
    return np.where(speech[None, :], mel, np.float32(-config.max_abs_value))
