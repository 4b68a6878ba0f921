"""Audio loading, mel spectrograms, and the mapping from video frames to mel columns."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import av
import numpy as np
import soxr

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.containers import audio_stream, clock_start, open_media
from preprocessing.media.sound.downmix import mono
from preprocessing.media.timeline import RESTARTING, decode

if TYPE_CHECKING:  # torch is imported where a mel spectrogram is computed: jobs without one start faster
    import torch

# The generator's window of a frame starts one frame of 25 per second before it: columns int(80 (k - 1) / 25) on for
# frame k. The original's training data does the same; its inference starts one frame later, which is a bug.
FRAME_LEAD = Fraction(1, 25)

JITTER = 0.1  # seconds; smaller timestamp errors inside an audio track are not gaps
RESTART_JITTER = 0.01  # the same where the clock may start anew: what follows must stay with its picture
POINTERS = 8  # in FFmpeg's frame; PyAV reads beyond them if there are as many planes, and crashes
MAX_GAP = 3600.0  # seconds; larger timestamp jumps are treated as corrupt


@dataclass(frozen=True)
class AudioConfig:
    """Audio front-end settings, stored in every clip and checkpoint; defaults match the released networks."""

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
            raise UsageError(f"fmax is {self.fmax} Hz, above half the sample rate of {self.sample_rate} Hz")

    @property
    def columns_per_second(self) -> Fraction:
        """Mel columns per second: 80."""
        return Fraction(self.sample_rate, self.hop_length)

    def require(self, other: dict | AudioConfig, name: str) -> None:
        """Raises UsageError if `other` differs, naming both values; `name` identifies its owner."""
        theirs = asdict(other) if isinstance(other, AudioConfig) else other
        for key, ours in asdict(self).items():
            if theirs.get(key, ours) != ours:
                raise UsageError(f"{name} was made with {key} = {theirs[key]}, expected {ours}")


def load_audio(path: Path | str, config: AudioConfig = AudioConfig(), track: int | None = None) -> np.ndarray:
    """Decodes a file's audio to mono samples at the configured rate; see `stream_audio`.

    Returns:
        (n,) float32, nominally -1 to 1.

    Raises:
        MediaError: the file is not a media file, has no audio track, or its audio cannot be decoded.
    """
    return np.concatenate(list(stream_audio(path, config, track)))


def spool_audio(
    path: Path | str, folder: Path, config: AudioConfig = AudioConfig(), track: int | None = None
) -> np.memmap:  # fmt: skip
    """Decodes audio to 16-bit samples in an unnamed temporary file in `folder`: any length, constant memory.

    The file disappears with the array.

    Returns:
        (n,) int16, 32768 times the samples of `load_audio`, rounded.

    Raises:
        MediaError: as `load_audio`.
        OSError: the folder is not writable or the disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        for piece in stream_audio(path, config, track):
            file.write(as_int16(piece).tobytes())
        file.flush()
        return np.memmap(file, np.int16, mode="r")


def stream_audio(
    path: Path | str, config: AudioConfig = AudioConfig(), track: int | None = None
) -> Iterator[np.ndarray]:  # fmt: skip
    """Streams a file's audio as mono chunks at the configured rate, in constant memory.

    Channels are averaged (see `downmix`), then resampled (soxr, HQ). Timing is preserved: a track that starts later
    than its container is padded with silence, and missing or damaged stretches become silence. Non-finite samples
    become 0. `track` chooses an audio track, see `audio_stream`.

    Yields:
        (n,) float32, n >= 1, nominally -1 to 1; at least one chunk.

    Raises:
        MediaError: as `load_audio`.
    """
    count = 0
    with open_media(path) as container:
        stream = audio_stream(container, path, track)
        for piece in _resampled(mono(continuous(container, stream)), config.sample_rate):
            if piece.size:
                yield piece
            count += piece.size
    if not count:
        raise MediaError(f"{display_path(path)} has an empty audio track")


def as_int16(samples: np.ndarray) -> np.ndarray:
    """Scales (n,) floats, nominally -1 to 1, by 32768 to int16, rounded and clipped."""
    return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)


def _as_float(samples: np.ndarray) -> np.ndarray:
    """(n,) int16 or floats as float32, nominally -1 to 1; non-finite values become 0."""
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _resampled(pieces: Iterator[tuple[int, np.ndarray]], rate: int) -> Iterator[np.ndarray]:
    """Resamples chunks of (samples per second, (n,) float32) to `rate`."""
    for source_rate, group in groupby(pieces, key=itemgetter(0)):
        resampler = soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality="HQ")
        for _, samples in group:
            yield resampler.resample_chunk(samples)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def continuous(
    container: av.container.InputContainer, stream: av.AudioStream
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """Yields (samples per second, (C, n) float32) from the file's start; gaps are filled with zeros."""
    clock, tolerance, restarting = float(clock_start(container)), 0.0, container.format.name in RESTARTING
    for frame in decode(container, stream):
        samples, rate = _samples(frame), frame.sample_rate
        missing = 0.0 if frame.time is None else frame.time - clock
        if tolerance < missing < MAX_GAP:
            yield from _silence(len(samples), round(missing * rate), rate)
            clock += missing
        elif restarting and -MAX_GAP < missing < -RESTART_JITTER:  # at a joint, the sound may overlap
            samples = samples[:, round(-missing * rate) :]
        yield rate, samples
        clock += samples.shape[1] / rate
        tolerance = RESTART_JITTER if restarting else JITTER  # only the start is exact


def _silence(channels: int, count: int, rate: int) -> Iterator[tuple[int, np.ndarray]]:
    """`count` zeros, one second at a time: a gap may last an hour."""
    for first in range(0, count, rate):
        yield rate, np.zeros((channels, min(rate, count - first)), np.float32)


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """Converts an audio frame of any sample format to (C, n) float32."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels >= POINTERS:
        frame = _packed(frame)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / float(-np.iinfo(samples.dtype).min)
    return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _packed(frame: av.AudioFrame) -> av.AudioFrame:
    """The frame with interleaved channels."""
    resampler = av.AudioResampler(format=frame.format.packed)
    return resampler.resample(frame)[0]


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


def release_pages(samples: np.ndarray) -> None:
    """Gives the pages of a memory map back to the system, which reads them again when needed.

    They would count as memory in use until then: 115 MB for an hour. Other arrays stay as they are.
    """
    mapped = getattr(samples, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):  # there is none on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


def _preemphasized(samples: np.ndarray, start: int, stop: int, config: AudioConfig) -> np.ndarray:
    """Pre-emphasized samples start .. stop, float32; reflected beyond both ends."""
    end = len(samples) - 1
    position = np.abs((np.arange(start, stop) + end) % max(2 * end, 1) - end)
    before = np.where(position > 0, _as_float(samples[position - 1]), np.float32(0))
    return _as_float(samples[position]) - np.float32(config.preemphasis) * before


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


def frame_count(samples: int, fps: Fraction, config: AudioConfig = AudioConfig()) -> int:
    """Number of video frames for N seconds of audio: round(N fps), at least one."""
    return max(1, round(Fraction(samples, config.sample_rate) * fps))


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
        span = _as_float(samples[first[0] : last[-1]]).astype(np.float64)
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
