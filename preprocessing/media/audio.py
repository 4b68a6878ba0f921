"""Audio loading: any file's sound as mono samples at one rate, from the file's start on."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
import soxr

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.containers import audio_stream, clock_start, open_media
from preprocessing.media.sound.downmix import mono
from preprocessing.media.timeline import RESTARTING, decode

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


def as_float(samples: np.ndarray) -> np.ndarray:
    """(n,) int16 or floats as float32, nominally -1 to 1; non-finite values become 0."""
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def frame_count(samples: int, fps: Fraction, config: AudioConfig = AudioConfig()) -> int:
    """Number of video frames for N seconds of audio: round(N fps), at least one."""
    return max(1, round(Fraction(samples, config.sample_rate) * fps))


def release_pages(samples: np.ndarray) -> None:
    """Gives the pages of a memory map back to the system, which reads them again when needed.

    They would count as memory in use until then: 115 MB for an hour. Other arrays stay as they are.
    """
    mapped = getattr(samples, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):  # there is none on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


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
