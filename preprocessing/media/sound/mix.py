"""Decodes and mixes the sound of a video to be written.

It is decoded by the same code as the speech that moves the mouth, so that both keep the same time in every container.
"""

from collections.abc import Generator, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import soxr

from preprocessing.media.audio import continuous
from preprocessing.media.containers import audio_stream, open_media
from preprocessing.media.sound.downmix import mono
from preprocessing.media.sound.mux import AudioTrack

RATE = 48000  # Hz; an AAC packet, 1024 samples, is then shorter than a frame
# Weights of a layout's channels in left and right, ITU-R BS.775; bass effects are left out.
SIDES = {
    "FL": (1, 0), "FR": (0, 1), "FC": (0.707, 0.707), "BL": (0.707, 0), "BR": (0, 0.707), "SL": (0.707, 0),
    "SR": (0, 0.707), "BC": (0.5, 0.5), "FLC": (0.924, 0.383), "FRC": (0.383, 0.924), "LFE": (0, 0),
}  # fmt: skip


def channel_count(tracks: Sequence[AudioTrack]) -> int:
    """Channels of the mix: 1, 2, or 6 if a 5.1 track is alone."""
    if len(tracks) == 1 and tracks[0].layout.startswith("5.1"):
        return 6
    return 1 if all(track.channels == 1 for track in tracks) else 2


def sample_rate(tracks: Sequence[AudioTrack], lossless: bool) -> int:
    """Samples per second of the mix: those of a single track if they are stored losslessly, else RATE."""
    return tracks[0].rate if lossless and len(tracks) == 1 and tracks[0].rate else RATE


def mix(tracks: Sequence[AudioTrack], channels: int, length: float, rate: int = RATE) -> Generator[np.ndarray]:
    """Adds the tracks, scaled by their gains, each from its start on; ends after `length` seconds or with the longest.

    Yields:
        (n, channels) float32 at `rate`, nominally -1 to 1, n at most a second.
    """
    sources = [_Source(track, channels, rate) for track in tracks]
    left = round(length * rate)
    try:
        while left > 0:
            parts = [source.read(min(rate, left)) for source in sources]
            count = max(len(part) for part in parts)
            if not count:
                return
            block = np.zeros((count, channels), np.float32)
            for source, part in zip(sources, parts, strict=True):
                block[: len(part)] += np.float32(source.track.sound.gain) * part
            yield block
            left -= count
    finally:
        for source in sources:
            source.close()


class _Source:
    """The chosen span of one track, read in blocks of any size."""

    def __init__(self, track: AudioTrack, channels: int, rate: int) -> None:
        self.track = track
        sound = track.sound
        self._pieces = _pieces(track, channels, rate)
        self._buffer = np.zeros((0, channels), np.float32)
        self._skip = round(sound.start * rate)
        self._left = None if sound.duration is None else round(sound.duration * rate)
        self._wait, self._given, self._channels = round(sound.at * rate), 0, channels
        self._rate = rate

    def read(self, count: int) -> np.ndarray:
        """The next `count` samples, fewer at the end; silence before the source's time."""
        silence = min(self._wait, count)
        self._wait -= silence
        samples = self._faded(self._next(count - silence))
        return np.concatenate([np.zeros((silence, self._channels), np.float32), samples]) if silence else samples

    def _faded(self, samples: np.ndarray) -> np.ndarray:
        """Fades the samples, which follow those given so far, at both ends of the span."""
        sound, first = self.track.sound, self._given
        self._given += len(samples)
        if not sound.fade:
            return samples
        seconds = (first + 0.5 + np.arange(len(samples))) / self._rate
        share = seconds / sound.fade
        if sound.duration is not None:
            share = np.minimum(share, (min(sound.duration, self.track.seconds - sound.start) - seconds) / sound.fade)
        return samples * np.clip(share, 0, 1).astype(np.float32)[:, None]

    def _next(self, count: int) -> np.ndarray:
        """The next `count` samples of the span, fewer at the end."""
        if self._left is not None:
            count = min(count, self._left)
        parts, missing = [self._buffer], count - len(self._buffer)
        while missing > 0 and (piece := next(self._pieces, None)) is not None:
            kept = piece[self._skip :]
            self._skip -= len(piece) - len(kept)
            parts.append(kept)
            missing -= len(kept)
        samples = np.concatenate(parts)
        self._buffer = samples[count:]
        if self._left is not None:
            self._left -= len(samples[:count])
        return samples[:count]

    def close(self) -> None:
        self._pieces.close()


def _pieces(track: AudioTrack, channels: int, rate: int) -> Generator[np.ndarray]:
    """All of a track, (n, channels) float32 at `rate`."""
    with open_media(track.sound.path) as container:
        stream = audio_stream(container, track.sound.path, track.sound.track)
        names = [channel.name for channel in stream.codec_context.layout.channels]
        for own_rate, pieces in groupby(continuous(container, stream), key=itemgetter(0)):
            mapped = (_mapped(own_rate, samples, names, channels).T for _, samples in pieces)
            yield from mapped if own_rate == rate else _resampled(mapped, own_rate, rate, channels)


def _resampled(pieces: Iterator[np.ndarray], own_rate: int, rate: int, channels: int) -> Iterator[np.ndarray]:
    resampler = soxr.ResampleStream(own_rate, rate, channels, dtype="float32", quality="HQ")
    for piece in pieces:
        yield resampler.resample_chunk(np.ascontiguousarray(piece))
    yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def _mapped(rate: int, samples: np.ndarray, names: Sequence[str], channels: int) -> np.ndarray:
    """(C, n) to (channels, n)."""
    if len(samples) == channels:
        return samples
    if len(samples) == 1:
        return np.repeat(samples, channels, axis=0)
    if channels == 2 and len(names) == len(samples) and all(name in SIDES for name in names):
        weights = np.array([SIDES[name] for name in names], np.float32).T
        return weights / weights.sum(axis=1).max() @ samples
    # Channels of unknown position are heard from the middle.
    middle = np.concatenate([piece for _, piece in mono(iter([(rate, samples)]))])
    return np.repeat(middle[None], channels, axis=0)
