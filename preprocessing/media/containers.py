"""Opens media files safely, and chooses the streams that a player would show and play."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
from av.stream import Disposition

from preprocessing.commands import is_out_of_memory
from preprocessing.errors import MediaError, UsageError, display_path

# Demuxers for self-contained files. Deliberately excluded: playlists, concatenations, manifests and number
# patterns (hls, concat, dash, sdp, image2, ...), which refer to other files and URLs.
PHOTO_FORMATS = (
    "jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "j2k_pipe", "ppm_pipe", "pgm_pipe"
)  # fmt: skip
VIDEO_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,h264,hevc,av1,obu,ivf,ogg,mxf,gif,apng,"
    "dv,wtv,nut,rm,m4v,mjpeg,yuv4mpegpipe,h261,h263,dnxhd,dirac,vc1,vvc,gxf,swf"
)
AUDIO_FORMATS = "wav,w64,mp3,aac,flac,aiff,au,caf,amr,ac3,eac3,dts,truehd,ape,wv,tta,voc,mp2,adts,dsf,oma"
READABLE = ",".join((*PHOTO_FORMATS, VIDEO_FORMATS, AUDIO_FORMATS))

MIN_SIDE = 16
MAX_PIXELS = 50_000_000


@contextmanager
def open_media(path: Path | str) -> Iterator[av.container.InputContainer]:
    """Open one local file for demuxing; its name is never read as a URL, nor its content as a playlist.

    Raises MediaError if the file is missing, empty, unreadable, or not in a format of `READABLE`.
    """
    with open_file(path) as file:
        try:
            container = av.open(
                file,
                metadata_errors="replace",
                # All protocols are disabled, so references to other files are never followed.
                container_options={"format_whitelist": READABLE, "protocol_whitelist": "none"},
            )
        except (av.FFmpegError, UnicodeError) as error:
            raise MediaError(
                f"{display_path(path)} is not a readable video, photo or audio file: it is damaged, a text file, "
                "a playlist, or in an unknown format"
            ) from error
        with container:
            yield container


def open_file(path: Path | str) -> IO[bytes]:
    """Opens a file by descriptor: FFmpeg would read some names as patterns (`face%d.jpg`)."""
    path = Path(path)
    try:
        if path.is_dir():
            raise MediaError(f"{display_path(path)} is a folder, not a video, photo or audio file")
        if path.exists() and not path.is_file():
            raise MediaError(f"{display_path(path)} is not a regular file")
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise MediaError(f"{display_path(path)} does not exist") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"{display_path(path)} cannot be opened: {reason}") from error
    file = os.fdopen(descriptor, "rb")
    if os.fstat(descriptor).st_size == 0:
        file.close()
        raise MediaError(f"{display_path(path)} is empty")
    return file


def video_stream(container: av.container.InputContainer, path: Path | str) -> av.VideoStream:
    """The file's main video stream, of a size that can be worked on; a song's cover picture is not one.

    Raises:
        MediaError: there is none, or it cannot be decoded.
    """
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise MediaError(f"{display_path(path)} has no video stream")
    context = stream.codec_context
    if context is None or not context.width or not context.height:
        raise MediaError(f"{display_path(path)} is damaged, or coded in a way that cannot be decoded")
    check_size(path, context.width, context.height)
    stream.thread_type = "AUTO"
    return stream


def check_size(path: Path | str, width: int, height: int) -> None:
    """Raises MediaError for pictures that are too small or too large to work on."""
    size = f"{display_path(path)} is {width}x{height}"
    if min(width, height) < MIN_SIDE:
        raise MediaError(f"{size}: each side must have at least {MIN_SIDE} pixels")
    if width * height > MAX_PIXELS:
        raise MediaError(f"{size}: at most {MAX_PIXELS // 10**6} megapixels can be worked on")


def audio_stream(
    container: av.container.InputContainer, path: Path | str, track: int | None = None
) -> av.AudioStream:  # fmt: skip
    """The audio track that is heard: number `track`, counting from 0, else the one a player starts with.

    That is the first one marked as default, else the first. Everything that reads a file's sound takes it from here,
    so that mouth, length and sound of a video always belong to the same track.

    Raises:
        MediaError: the file has no audio track that can be decoded.
        UsageError: it has fewer tracks than `track` says.
    """
    tracks = decodable_tracks(container)
    if not tracks:
        undecodable = " that can be decoded" if container.streams.audio else ""
        raise MediaError(f"{display_path(path)} has no audio track{undecodable}")
    if track is None:
        return next((stream for stream in tracks if stream.disposition & Disposition.default), tracks[0])
    if not 0 <= track < len(tracks):
        raise UsageError(f"{display_path(path)} has {len(tracks)} audio tracks, counted from 0: there is no {track}")
    return tracks[track]


def decodable_tracks(container: av.container.InputContainer) -> list[av.AudioStream]:
    """The audio streams that can be decoded, in the file's order."""
    return [stream for stream in container.streams.audio if stream.codec_context]


def clock_start(container: av.container.InputContainer) -> Fraction:
    """Seconds: the time stamp of the file's earliest stream, which is zero for all of them."""
    return Fraction(container.start_time or 0, av.time_base)


def decode_packets(packets: Iterator[av.Packet], stream: av.VideoStream | av.AudioStream) -> Iterator:
    """Yields every decodable frame; damaged packets are skipped, a damaged container ends the stream."""
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            if is_out_of_memory(error):
                raise MemoryError from error
            packet = None
        # After the last packet, None flushes the decoder.
        try:
            yield from stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            if is_out_of_memory(error):
                raise MemoryError from error
        if packet is None:
            return
