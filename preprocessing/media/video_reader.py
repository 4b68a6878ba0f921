"""Reads media files: safe opening, probing, and decoding at a constant frame rate."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import cv2
import numpy as np
from av.stream import Disposition

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.color_conversion import ColorTags, color_tags, to_bgr
from preprocessing.media.planar_frame import as_planar, is_planar

# Demuxers for self-contained files. Deliberately excluded: playlists, concatenations, manifests and number
# patterns (hls, concat, dash, sdp, image2, ...), which refer to other files and URLs.
PHOTO_FORMATS = ("jpeg_pipe", "png_pipe", "webp_pipe")
VIDEO_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,h264,hevc,av1,obu,ivf,ogg,mxf,gif,apng,"
    "dv,wtv,nut,rm,m4v,mjpeg,yuv4mpegpipe"
)
AUDIO_FORMATS = "wav,w64,mp3,aac,flac,aiff,au,caf,amr,ac3,eac3,dts,truehd,ape,wv,tta,voc"
READABLE = ",".join((*PHOTO_FORMATS, VIDEO_FORMATS, AUDIO_FORMATS))

MIN_SIDE = 16
MAX_PIXELS = 50_000_000
SLOWEST, FASTEST, DEFAULT_FPS = Fraction(1), Fraction(120), Fraction(25)


@dataclass(frozen=True, kw_only=True)
class VideoInfo(ColorTags):
    """Properties of a video or photo as `read_frames` returns it.

    Width and height are pixels after rotation; `rotation` is the counterclockwise rotation applied: 0, 90, 180 or 270
    degrees.
    Duration is in seconds on the file's clock, which starts at its earliest stream.
    `planar`: whether `read_frames` can yield planar frames.
    """

    width: int
    height: int
    fps: Fraction
    duration: float
    rotation: int = 0
    has_audio: bool = False
    is_image: bool = False
    planar: bool = False
    sample_aspect_ratio: Fraction = Fraction(1)


@contextmanager
def open_media(path: Path | str) -> Iterator[av.container.InputContainer]:
    """Open one local file for demuxing; its name is never read as a URL, nor its content as a playlist.

    Raises MediaError if the file is missing, empty, unreadable, or not in a format of `READABLE`.
    """
    with _open_file(Path(path)) as file:
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


def _open_file(path: Path) -> IO[bytes]:
    """Opens the file by descriptor: FFmpeg would read some names as patterns (`face%d.jpg`)."""
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


def probe(path: Path | str) -> VideoInfo:
    """Probe a video or photo, decoding at most its first frame. Raises MediaError if it has no video stream."""
    with open_media(path) as container:
        stream = _video_stream(container, path)
        if container.format.name in PHOTO_FORMATS:
            return _photo_info(path)
        fps, duration = _fps(stream), _duration(container, stream)
        frame = next(decode(container, stream), None)
        if frame is None:
            raise MediaError(f"{display_path(path)} has no decodable video frame")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        has_audio = bool(container.streams.audio)
    if fps is None or duration is None:
        fps, duration = _count(path, fps)
    rotation = round(frame.rotation / 90) * 90 % 360
    turned = rotation % 180 != 0
    return VideoInfo(
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        fps=fps,
        duration=duration,
        rotation=rotation,
        has_audio=has_audio,
        planar=rotation == 0 and is_planar(frame),
        sample_aspect_ratio=1 / aspect if turned else aspect,
        **vars(color_tags(frame)),
    )


def read_frames(
    path: Path | str,
    *,
    fps: Fraction | None = None,
    start: float = 0.0,
    end: float | None = None,
    max_side: int | None = None,
    planar: bool = False,
) -> Iterator[np.ndarray]:
    """Yield frames as uint8 BGR (H, W, 3), upright, at the constant rate `fps` (default: the file's own).

    Frame k is the last one whose timestamp, rounded to the grid of `fps`, is not after start + k / fps; the whole
    file yields round(duration * fps) frames, fewer if it is truncated. `start` and `end` are in seconds. `max_side`
    downscales frames during conversion, keeping the aspect ratio. A photo yields one frame. Arrays are never shared.
    `planar` yields `PlanarFrame`s, which act as such arrays, from a video whose info says that it can.
    Raises MediaError if nothing can be decoded, UsageError for an invalid rate, span or size.
    """
    _check_request(fps, start, end, max_side)
    info = probe(path)
    if info.is_image:
        yield _shrink(read_image(path), max_side)
        return
    stop = info.duration if end is None else min(end, info.duration)
    if start >= stop:
        raise UsageError(f"start must be before the end of {display_path(path)} at {info.duration:.3f} s, not {start}")
    rate = Fraction(fps or info.fps)
    count = max(1, round((stop - start) * rate))
    for frame, repeats in _filled_slots(path, info, rate, start, count):
        if planar:
            yield from as_planar(frame, info, (info.width, info.height), repeats)
            continue
        small = to_bgr(frame, *_fit(frame.width, frame.height, max_side))
        image = np.ascontiguousarray(np.rot90(small, info.rotation // 90))
        for _ in range(repeats - 1):
            yield image.copy()
        yield image


def read_image(path: Path | str) -> np.ndarray:
    """Read a jpg, png or webp photo as uint8 BGR (H, W, 3), rotated upright by its EXIF tag; alpha is ignored."""
    with open_media(path) as container:
        if container.format.name not in PHOTO_FORMATS:
            raise MediaError(f"{display_path(path)} is not a jpg, png or webp photo")
        _video_stream(container, path)  # rejects invalid sizes before decoding
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise MediaError(f"{display_path(path)} is a damaged photo")
    return image


def _photo_info(path: Path | str) -> VideoInfo:
    height, width = read_image(path).shape[:2]
    second = 1 / DEFAULT_FPS
    return VideoInfo(
        width=width, height=height, fps=DEFAULT_FPS, duration=float(second), is_image=True, colorspace="gbr"
    )


def _check_request(fps: Fraction | None, start: float, end: float | None, max_side: int | None) -> None:
    if fps is not None and not 0 < fps <= 1000:
        raise UsageError(f"fps must be above 0 and at most 1000, not {fps}")
    if not 0 <= start < math.inf or (end is not None and not end > start):
        raise UsageError(f"start and end must be seconds with 0 <= start < end, not {start} and {end}")
    if max_side is not None and max_side < 1:
        raise UsageError(f"max_side must be at least 1 pixel, not {max_side}")


def _video_stream(container: av.container.InputContainer, path: Path | str) -> av.VideoStream:
    """The file's main video stream, of a size that can be worked on; a song's cover picture is not one."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise MediaError(f"{display_path(path)} has no video stream")
    context = stream.codec_context
    if context is None or not context.width or not context.height:
        raise MediaError(f"{display_path(path)} is damaged, or coded in a way that cannot be decoded")
    size = f"{display_path(path)} is {context.width}x{context.height}"
    if min(context.width, context.height) < MIN_SIDE:
        raise MediaError(f"{size}: each side must have at least {MIN_SIDE} pixels")
    if context.width * context.height > MAX_PIXELS:
        raise MediaError(f"{size}: at most {MAX_PIXELS // 10**6} megapixels can be worked on")
    stream.thread_type = "AUTO"
    return stream


def _sane(rate: Fraction | None) -> Fraction | None:
    return rate if rate and SLOWEST <= rate <= FASTEST else None


def _fps(stream: av.VideoStream) -> Fraction | None:
    """The nominal rate (30000/1001) rather than the mean (19001/634), unless frames come much more rarely."""
    nominal, mean = _sane(stream.guessed_rate), _sane(stream.average_rate)
    return nominal if nominal and mean and nominal < 1.5 * mean else mean or nominal


def _clock_start(container: av.container.InputContainer) -> Fraction:
    """Seconds: the time stamp of the file's earliest stream, which is zero for all of them."""
    return Fraction(container.start_time or 0, av.time_base)


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds from the clock's start to the end of the video stream; None if the headers lack it."""
    origin = _clock_start(container)
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base - origin)
    # Matroska keeps a stream's end in a tag, 00:00:10.010000000.
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if tag:
        return float(int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3]) - origin)
    return container.duration / av.time_base if container.duration else None


def _count(path: Path | str, fps: Fraction | None) -> tuple[Fraction, float]:
    """(fps, seconds) from the packets, for files whose headers lack one of them."""
    with open_media(path) as container:
        stream = _video_stream(container, path)
        packets = [packet.pts for packet in container.demux(stream) if packet.size]
        stamps = [pts * stream.time_base - _clock_start(container) for pts in packets if pts is not None]
    span = max(stamps) - min(stamps) if stamps else Fraction(0)
    if not span:
        fps = fps or DEFAULT_FPS
        return fps, float(len(packets) / fps)
    fps = fps or _sane((len(stamps) - 1) / span) or DEFAULT_FPS
    return fps, float(max(stamps) + 1 / fps)


def decode(container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream) -> Iterator:
    """Yields every decodable frame; damaged packets are skipped, a damaged container ends the stream."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            packet = None
        # After the last packet, None flushes the decoder.
        with suppress(av.FFmpegError):
            yield from stream.codec_context.decode(packet)
        if packet is None:
            return


def _timed_frames(path: Path | str, info: VideoInfo, start: float) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Yields (frame, seconds on the file's clock), starting with a frame at or before `start`."""
    if start > 1:
        # Seek one second early: some formats seek inexactly.
        frames = _stamped(path, info, Fraction(start) - 1)
        first = next(frames, None)
        if first is not None and first[1] <= start:
            yield first
            yield from frames
            return
    yield from _stamped(path, info, None)


def _stamped(path: Path | str, info: VideoInfo, seek: Fraction | None) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Yields (frame, seconds) from the keyframe before `seek`, nothing if seeking fails; None: from the start."""
    with open_media(path) as container:
        stream = _video_stream(container, path)
        origin = _clock_start(container)
        if seek is not None:
            try:
                container.seek(math.floor((origin + seek) / stream.time_base), stream=stream)
            except av.FFmpegError:
                return
        time = -1 / info.fps
        for frame in decode(container, stream):
            if frame.pts is None and seek is not None:
                return
            # A frame without a timestamp follows its predecessor.
            time = time + 1 / info.fps if frame.pts is None else frame.pts * frame.time_base - origin
            yield frame, time


def _filled_slots(
    path: Path | str, info: VideoInfo, rate: Fraction, start: float, count: int
) -> Iterator[tuple[av.VideoFrame, int]]:
    """(frame, number of slots it fills) until `count` slots of 1 / rate seconds, the first at `start`, are full."""
    held, filled, slot = None, 0, 0
    for frame, time in _timed_frames(path, info, start):
        slot = min(math.floor((time - Fraction(start)) * rate + Fraction(1, 2)), count)
        if held is not None and slot > filled:
            yield held, slot - filled
            filled = slot
        held = frame  # the first of all also fills what lies before it
        if filled >= count:
            return
    if held is None:
        raise MediaError(f"{display_path(path)} has no decodable video frame")
    lasts = held.duration * held.time_base if held.duration else 1 / info.fps
    ends = slot + max(1, round(lasts * rate))
    # Headers may overstate the frame count slightly; a large excess means a truncated file.
    ends = count if count - ends <= rate / 2 else ends
    if ends > filled:
        yield held, ends - filled


def _shrink(image: np.ndarray, max_side: int | None) -> np.ndarray:
    width, height = _fit(image.shape[1], image.shape[0], max_side)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _fit(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    scale = min(1.0, (max_side or math.inf) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
