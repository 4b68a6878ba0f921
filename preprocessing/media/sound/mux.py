"""Audio tracks for the video writer: complete tracks are stream-copied where their timing survives it."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import av
import ffmpeg

from preprocessing.errors import UsageError, display_path
from preprocessing.media.containers import audio_stream, clock_start, open_media
from preprocessing.media.timeline import RESTARTING

# Codecs, with the demuxers whose packets are copied into a container ("": any). What is missing is decoded and encoded
# again, because its time or its existence depends on the version of ffmpeg (measured with 4.1, 4.2, 7.0 and 9.0):
# decoders of lossy codecs start with a delay, which Matroska does not tell for MP3, Vorbis and, before version 8, for
# AAC, and which is lost on the way out of it; MP4 takes ALAC only since version 5.
_MP4: dict[str, tuple[str, ...]] = {"aac": ("mov", "aac"), "mp3": ("mp3",), "ac3": ("",)}
COPIED_CODECS: dict[str, dict[str, tuple[str, ...]]] = {
    ".mp4": _MP4,
    ".mov": _MP4 | {"alac": ("",)},
    ".mkv": {"alac": ("",), "ac3": ("",), "eac3": ("",), "dts": ("",), "flac": ("",), "mp2": ("",),
             "opus": ("ogg",)},
    ".webm": {"opus": ("ogg",)},
}  # fmt: skip
MPEG_2_5 = 16000  # Hz; MP3 below it is not part of MPEG, and MP4 does not take it
# Encoders: FLAC has no delay, and all versions tell that of AAC in MP4.
ENCODED = {
    ".mp4": {"c:a": "aac", "b:a": "192k"},
    ".mov": {"c:a": "aac", "b:a": "192k"},
    ".mkv": {"c:a": "flac", "sample_fmt": "s16"},
    ".webm": {"c:a": "libopus", "b:a": "160k"},
}


@dataclass(frozen=True)
class AudioSource:
    """An excerpt of a file to mux: `duration` seconds (None: to the end) from `start`, scaled by `gain`.

    `start` is on the file's clock, which picture and sound share; `track` chooses an audio track, see `audio_stream`.
    The excerpt begins at second `at` of the output; `fade` seconds at both ends of an excerpt keep it from clicking.
    """

    path: Path | str
    start: float = 0.0
    duration: float | None = None
    gain: float = 1.0
    track: int | None = None
    at: float = 0.0
    fade: float = 0.0

    def __post_init__(self) -> None:
        numbers = self.start, self.gain, self.at, self.fade
        if not all(number >= 0 for number in numbers) or (self.duration is not None and not self.duration > 0):
            raise UsageError(f"an audio source needs start, gain, at and fade >= 0 and duration > 0, not {self}")


@dataclass(frozen=True)
class AudioTrack:
    """A probed audio source: its stream, codec, channels and packet length."""

    sound: AudioSource
    demuxer: str
    index: int
    codec: str
    rate: int
    channels: int
    layout: str
    seconds: float  # its end on the file's clock
    packet: float  # seconds

    @classmethod
    def of(cls, sound: AudioSource) -> Self:
        """Find the audio stream. Raises MediaError if there is none."""
        with open_media(sound.path) as container:
            stream = audio_stream(container, sound.path, sound.track)
            context = stream.codec_context
            return cls(
                sound,
                demuxer=container.format.name.split(",")[0],  # a comma-separated list; ffmpeg's -f takes one
                index=stream.index,
                codec=context.codec.canonical_name,
                rate=context.sample_rate or 0,
                channels=context.layout.nb_channels,
                layout=context.layout.name,
                seconds=_seconds(container, stream),
                packet=_packet_seconds(container, stream),
            )

    def fits(self, suffix: str, length: float, frame: float) -> bool:
        """Whether packets can be stream-copied: an unchanged source, a codec whose timing the container keeps, and an
        end within one frame of `length` seconds; cutting more finely than at packet boundaries requires decoding.
        """
        whole = self.sound.start == 0 and self.sound.duration is None and self.sound.gain == 1
        whole = whole and self.sound.at == 0 and self.sound.fade == 0
        ends_with_video = self.seconds <= length + frame or self.packet <= 2 * frame
        return whole and ends_with_video and self._copyable(suffix)

    def _copyable(self, suffix: str) -> bool:
        demuxers = COPIED_CODECS[suffix].get(self.codec, ())
        taken = "" in demuxers or self.demuxer in demuxers
        return taken and self.demuxer not in RESTARTING - {"ogg"} and (self.codec != "mp3" or self.rate >= MPEG_2_5)

    def copied(self, length: float) -> Any:
        """The packets of the first `length` seconds."""
        # ffmpeg keeps a packet if it starts inside, so subtracting half a packet rounds to the nearest boundary.
        span = max(length - self.packet / 2, self.packet / 2)
        source = ffmpeg.input(plain(self.sound.path), f=self.demuxer, protocol_whitelist="file,pipe", t=span)
        return source[str(self.index)]


def heard_tracks(sounds: Sequence[AudioSource]) -> list[AudioTrack]:
    """Probes the sources; those that end before their start are silent and left out.

    Raises:
        MediaError: a source has no audio.
        UsageError: all of them are silent.
    """
    tracks = [AudioTrack.of(sound) for sound in sounds]
    heard = [track for track in tracks if track.sound.start < track.seconds]
    if tracks and not heard:
        silent = tracks[0]
        raise UsageError(
            f"start must be before the end of {display_path(silent.sound.path)} at {silent.seconds:.3f} s, "
            f"not {silent.sound.start}"
        )
    return heard


def plain(path: Path | str) -> str:
    """A URL that ffmpeg treats as a plain file, whatever characters the path contains."""
    return f"file:{os.fspath(path)}"


def _seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    """Where the stream ends on the file's clock; a sound may begin later than its picture."""
    if container.format.name in RESTARTING:
        return math.inf  # the headers do not tell
    if stream.duration:
        late = (stream.start_time or 0) * stream.time_base - clock_start(container)
        return float(stream.duration * stream.time_base + max(0, late))
    return container.duration / av.time_base if container.duration else math.inf


def _packet_seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    """Duration of the first audio packet in seconds, 0 if unknown."""
    with suppress(av.FFmpegError):
        packet = next(container.demux(stream))
        return float((packet.duration or 0) * stream.time_base)
    return 0.0
