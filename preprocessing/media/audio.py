"""Sound to mel spectrogram, and the one rule that says which mel columns belong to a picture."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
import soxr
import torch

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.video_reader import decode, open_media

# The generator's window of a frame starts one frame of 25 per second before it: columns int(80 (k - 1) / 25) on for
# frame k. So it is in the original's training data; its inference starts a frame later, which is a fault.
FRAME_LEAD = Fraction(1, 25)

JITTER = 0.1  # seconds by which time stamps inside a sound track may be off without a hole being meant
LONGEST_HOLE = 3600.0  # seconds; time stamps farther apart are wrong


@dataclass(frozen=True)
class AudioConfig:
    """The audio front-end. It travels in every clip and checkpoint; the defaults are the released networks'."""

    sample_rate: int = 16000
    n_fft: int = 800
    hop_length: int = 200
    n_mels: int = 80
    fmin: float = 55.0
    fmax: float = 7600.0
    preemphasis: float = 0.97
    min_level_db: float = -100.0
    ref_level_db: float = 20.0
    max_abs_value: float = 4.0
    window_columns: int = 16

    def __post_init__(self) -> None:
        if self.fmax > self.sample_rate / 2:
            raise UsageError(f"fmax is {self.fmax} Hz, above half of the sample rate of {self.sample_rate} Hz")

    @property
    def columns_per_second(self) -> Fraction:
        """Mel columns in a second: 80."""
        return Fraction(self.sample_rate, self.hop_length)

    def require(self, other: dict | AudioConfig, name: str) -> None:
        """Refuses another front-end, naming both values. `name` says whose it is."""
        theirs = asdict(other) if isinstance(other, AudioConfig) else other
        for key, ours in asdict(self).items():
            if theirs.get(key, ours) != ours:
                raise UsageError(f"{name} was made with {key} = {theirs[key]}, here it is {ours}")


def load_audio(path: Path | str, config: AudioConfig = AudioConfig()) -> np.ndarray:
    """Any file's sound as mono samples at the configured rate, as `stream_audio` gives them.

    Returns:
        (n,) float32, nominally -1 to 1.

    Raises:
        MediaError: the file is no medium, has no sound track, or nothing of its sound track can be decoded.
    """
    return np.concatenate(list(stream_audio(path, config)))


def spool_audio(path: Path | str, folder: Path, config: AudioConfig = AudioConfig()) -> np.memmap:
    """The same sound as 16-bit numbers in a nameless temporary file inside `folder`: of any length, in little memory.

    The file is gone when the array is.

    Returns:
        (n,) int16, 32768 times the samples of `load_audio`, rounded.

    Raises:
        MediaError: as `load_audio`.
        OSError: the folder cannot be written to, or its disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        for piece in stream_audio(path, config):
            file.write(as_int16(piece).tobytes())
        file.flush()
        return np.memmap(file, np.int16, mode="r")


def stream_audio(path: Path | str, config: AudioConfig = AudioConfig()) -> Iterator[np.ndarray]:
    """Any file's sound as mono samples at the configured rate, piece by piece, in constant memory.

    Channels are averaged, then resampled (soxr, HQ). Sound keeps its time: a track that starts after its container
    begins with silence, and so is a stretch that is missing or damaged. Samples that are not numbers become zero.

    Yields:
        (n,) float32, n >= 1, nominally -1 to 1; at least one piece.

    Raises:
        MediaError: as `load_audio`.
    """
    count = 0
    with open_media(path) as container:
        stream = next((stream for stream in container.streams.audio if stream.codec_context), None)
        if stream is None:
            raise MediaError(f"{display_path(path)} has no sound track")
        for piece in _resampled(_continuous(container, stream), config.sample_rate):
            if piece.size:
                yield piece
            count += piece.size
    if not count:
        raise MediaError(f"{display_path(path)} has a sound track without samples")


def as_int16(samples: np.ndarray) -> np.ndarray:
    """(n,) floats, nominally -1 to 1, as int16 that is 32768 times as much, rounded and cut off."""
    return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)


def _as_float(samples: np.ndarray) -> np.ndarray:
    """(n,) int16 or floats as float32, nominally -1 to 1; values that are not numbers become zero."""
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _resampled(pieces: Iterator[tuple[int, np.ndarray]], rate: int) -> Iterator[np.ndarray]:
    """Pieces of (samples per second, (n,) float32) as pieces at `rate`."""
    for source_rate, group in groupby(pieces, key=itemgetter(0)):
        resampler = soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality="HQ")
        for _, samples in group:
            yield resampler.resample_chunk(samples)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _continuous(
    container: av.container.InputContainer, stream: av.AudioStream
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """The stream as (samples per second, (n,) float32 mono) without holes: where time stamps leap, with zeros."""
    clock, tolerance = (container.start_time or 0) / av.time_base, 0.0
    for frame in decode(container, stream):
        missing = 0.0 if frame.time is None else frame.time - clock
        if tolerance < missing < LONGEST_HOLE:
            yield from _silence(round(missing * frame.sample_rate), frame.sample_rate)
            clock += missing
        yield frame.sample_rate, _mono(frame)
        clock += frame.samples / frame.sample_rate
        tolerance = JITTER  # only the start is exact


def _silence(count: int, rate: int) -> Iterator[tuple[int, np.ndarray]]:
    """`count` zeros, a second at a time: a hole may be an hour long."""
    for first in range(0, count, rate):
        yield rate, np.zeros(min(rate, count - first), np.float32)


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """An audio frame of any sample format as (n,) float32, the mean of its channels."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / float(-np.iinfo(samples.dtype).min)
    return np.nan_to_num(samples.mean(axis=0, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)


@lru_cache(maxsize=4)
def _mel_basis(config: AudioConfig) -> torch.Tensor:
    """(n_mels, n_fft / 2 + 1) triangles, equally spaced on Slaney's mel scale, each of area one.

    Source: Slaney, "Auditory Toolbox" (1998); what librosa.filters.mel gives, whose import alone takes two seconds.
    """
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

    Pre-emphasis, Hann STFT padded by reflection, magnitude, mel, 20 log10, normalised to -4 .. 4. Computed `block`
    columns at a time, so that the memory beside the result does not grow.

    Args:
        samples: (n,) float, or int16 that is 32768 times as much, n >= 1; values that are not numbers count as zero.

    Returns:
        (n_mels, 1 + n // hop_length) float32, -max_abs_value to max_abs_value.
    """
    samples = np.asarray(samples)
    columns = 1 + len(samples) // config.hop_length
    mel = np.empty((config.n_mels, columns), np.float32)
    for first in range(0, columns, block):
        last = min(first + block, columns)
        start = first * config.hop_length - config.n_fft // 2
        span = _emphasised(samples, start, start + (last - 1 - first) * config.hop_length + config.n_fft, config)
        mel[:, first:last] = _log_mel(torch.from_numpy(span), config).numpy()
    return mel


def _emphasised(samples: np.ndarray, start: int, stop: int, config: AudioConfig) -> np.ndarray:
    """Samples start .. stop of the sound after pre-emphasis, float32; beyond both of its ends it is reflected."""
    end = len(samples) - 1
    place = np.abs((np.arange(start, stop) + end) % max(2 * end, 1) - end)
    before = np.where(place > 0, _as_float(samples[place - 1]), np.float32(0))
    return _as_float(samples[place]) - np.float32(config.preemphasis) * before


def _log_mel(samples: torch.Tensor, config: AudioConfig) -> torch.Tensor:
    window = torch.hann_window(config.n_fft)
    spectrum = torch.stft(samples, config.n_fft, config.hop_length, window=window, center=False, return_complex=True)
    floor = 10.0 ** (config.min_level_db / 20)
    level = 20 * torch.log10((_mel_basis(config) @ spectrum.abs()).clamp_min(floor)) - config.ref_level_db
    top = config.max_abs_value
    return (2 * top * (level - config.min_level_db) / -config.min_level_db - top).clamp(-top, top)


def mel_window(
    mel: np.ndarray,
    time: Fraction | float,
    config: AudioConfig = AudioConfig(),
    lead: Fraction = FRAME_LEAD,
) -> np.ndarray:
    """The mel columns that belong to the frame shown at `time`: the one frame-to-mel rule.

    The window starts at column floor(columns_per_second (time - lead)). What lies before the first or after the last
    column is silence, so every frame of a video has its window.

    Args:
        mel: (n_mels, T).
        time: seconds from the start of the sound.
        lead: how long before `time` the window starts: FRAME_LEAD for the generator's frame, 0 for the
            expert's window of five frames, of which `time` is the first.

    Returns:
        (n_mels, window_columns), a copy.
    """
    # The small constant keeps a time such as 7 / 25 that float arithmetic left just under a column on that column.
    start = int(np.floor(float(config.columns_per_second * (Fraction(time) - lead)) + 1e-6))
    stop = start + config.window_columns
    inside = mel[:, max(start, 0) : max(stop, 0)]
    before = min(max(-start, 0), config.window_columns)
    after = config.window_columns - before - inside.shape[1]
    return np.pad(inside, ((0, 0), (before, after)), constant_values=-config.max_abs_value)


def frame_count(samples: int, fps: Fraction, config: AudioConfig = AudioConfig()) -> int:
    """The number of frames that N seconds of sound get: round(N fps), at least one."""
    return max(1, round(Fraction(samples, config.sample_rate) * fps))


def speech_columns(
    samples: np.ndarray, config: AudioConfig = AudioConfig(), shortest_pause: float = 0.2, margin: float = 0.06
) -> np.ndarray:
    """Where there is speech, by level with hysteresis, one flag a mel column.

    Speech ends where the level of 50 ms falls below a threshold and begins where it rises 6 dB above that. The
    threshold lies 6 dB above the recording's quiet parts (the 10th percentile of the level), but 22 to 38 dB below its
    loud parts (the 95th), so that a recording without pauses has none, and never below -60 dBFS. A pause shorter than
    `shortest_pause` seconds (the closure of a plosive) is part of the speech, which is widened by `margin` seconds.

    The numbers fit GRID's word alignments: there words peak within 11 dB of the loud parts, and pauses lie 20 to
    37 dB below them.

    Args:
        samples: as `mel_spectrogram`'s. Beside the result, the memory grows by a few numbers a column only.

    Returns:
        (1 + n // hop_length,) bool.
    """
    level = _level_db(np.asarray(samples), config)
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
        centre = np.arange(start, min(start + block, len(power))) * config.hop_length
        first = np.clip(centre - config.n_fft // 2, 0, len(samples))
        last = np.clip(centre + config.n_fft // 2, 0, len(samples))
        span = _as_float(samples[first[0] : last[-1]]).astype(np.float64)
        energy = np.concatenate(([0.0], np.cumsum(span**2)))
        power[start : start + block] = energy[last - first[0]] - energy[first - first[0]]
        power[start : start + block] /= np.maximum(last - first, 1)
    return 10 * np.log10(np.maximum(power, 1e-12))


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and one-past-last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def rest_in_silence(mel: np.ndarray, speech: np.ndarray, config: AudioConfig = AudioConfig()) -> np.ndarray:
    """The mel with digital silence where there is no speech, so that room noise does not move the mouth.

    Args:
        mel: (n_mels, T).
        speech: (T,) bool, from `speech_columns`.

    Returns:
        (n_mels, T), a copy.
    """
    return np.where(speech[None, :], mel, np.float32(-config.max_abs_value))
