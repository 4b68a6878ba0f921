"""Audio tracks for the video writer: complete tracks are stream-copied; excerpts and mixes are re-encoded."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import av
import ffmpeg

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.video_reader import open_media

# Audio codecs that each container accepts for stream copy; all others are re-encoded.
COPIED_CODECS = {
    ".mp4": {"aac", "mp3", "alac", "ac3"},
    ".mov": {"aac", "mp3", "alac", "ac3"},
    ".mkv": {"aac", "mp3", "alac", "ac3", "eac3", "dts", "flac", "opus", "vorbis", "mp2", "pcm_s16le", "pcm_s24le"},
}
AAC = {"c:a": "aac", "b:a": "192k", "ar": 48000}  # at 48 kHz a packet, 1024 samples, is shorter than a frame


@dataclass(frozen=True)
class AudioSource:
    """An excerpt of a file to mux: `duration` seconds (None: to the end) from `start`, scaled by `gain`."""

    path: Path | str
    start: float = 0.0
    duration: float | None = None
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not self.start >= 0 or (self.duration is not None and not self.duration > 0) or not self.gain >= 0:
            raise UsageError(f"an audio source needs start >= 0, duration > 0 and gain >= 0, not {self}")


@dataclass(frozen=True)
class AudioTrack:
    """A probed audio source: its stream, codec and packet length."""

    sound: AudioSource
    demuxer: str
    index: int
    codec: str
    seconds: float
    packet: float  # seconds

    @classmethod
    def of(cls, sound: AudioSource) -> Self:
        """Find a file's main audio stream. Raises MediaError if there is none, UsageError if it ends before `start`."""
        with open_media(sound.path) as container:
            stream = container.streams.best("audio")
            if stream is None or stream.codec_context is None:
                raise MediaError(f"{display_path(sound.path)} has no decodable audio")
            seconds = _seconds(container, stream)
            if sound.start >= seconds:
                raise UsageError(
                    f"start must be before the end of {display_path(sound.path)} at {seconds:.3f} s, not {sound.start}"
                )
            return cls(
                sound,
                demuxer=container.format.name.split(",")[0],  # a comma-separated list; ffmpeg's -f takes one
                index=stream.index,
                codec=stream.codec_context.codec.canonical_name,
                seconds=seconds,
                packet=_packet_seconds(container, stream),
            )

    def fits(self, suffix: str, length: float, frame: float) -> bool:
        """Whether packets can be stream-copied: an unchanged source, a codec the container supports, and an end within
        one frame of `length` seconds; cutting more finely than at packet boundaries requires decoding.
        """
        whole = self.sound.start == 0 and self.sound.duration is None and self.sound.gain == 1
        ends_with_video = self.seconds <= length + frame or self.packet <= 2 * frame
        return whole and ends_with_video and self.codec in COPIED_CODECS[suffix]

    def copied(self, length: float) -> Any:
        """The packets of the first `length` seconds."""
        # ffmpeg keeps a packet if it starts inside, so subtracting half a packet rounds to the nearest boundary.
        return self._input(t=max(length - self.packet / 2, self.packet / 2))

    def decoded(self, number: int) -> Any:
        """The selected span, starting at 0; a stream that starts after its container is padded with silence."""
        span = {"start": self.sound.start}
        if self.sound.duration is not None:
            span["duration"] = self.sound.duration
        # ffmpeg-python merges equal filters on equal inputs; adding 0 * number keeps two uses of a file distinct.
        stream = self._input().filter("asetpts", f"PTS+0*{number}")
        stream = stream.filter("aresample", **{"async": 1, "first_pts": 0})
        stream = stream.filter("atrim", **span).filter("asetpts", "PTS-STARTPTS")
        return stream.filter("volume", self.sound.gain)

    def _input(self, **options: Any) -> Any:
        source = ffmpeg.input(plain(self.sound.path), f=self.demuxer, protocol_whitelist="file,pipe", **options)
        return source[str(self.index)]


def plain(path: Path | str) -> str:
    """A URL that ffmpeg treats as a plain file, whatever characters the path contains."""
    return f"file:{os.fspath(path)}"


def soundtrack(tracks: Sequence[AudioTrack], suffix: str, length: float, frame: float) -> tuple[Any, dict[str, Any]]:
    """(ffmpeg stream, output options): a single track stream-copied if possible, else an AAC mix.

    It ends with the video of `length` seconds, to within one `frame` (seconds), or earlier if the audio does.
    """
    if len(tracks) == 1 and tracks[0].fits(suffix, length, frame):
        return tracks[0].copied(length), {"c:a": "copy"}
    streams = [track.decoded(number) for number, track in enumerate(tracks)]
    mixed = ffmpeg.filter(streams, "amix", inputs=len(streams), normalize=0) if len(streams) > 1 else streams[0]
    return mixed.filter("atrim", duration=length), AAC


def _seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else math.inf


def _packet_seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    """Duration of the first audio packet in seconds, 0 if unknown."""
    with suppress(av.FFmpegError):
        packet = next(container.demux(stream))
        return float((packet.duration or 0) * stream.time_base)
    return 0.0
