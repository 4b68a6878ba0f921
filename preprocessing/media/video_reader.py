"""Reads videos and photos: probing, and decoding at a constant frame rate, as a player shows them."""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media import hdr
from preprocessing.media.color_conversion import BLACK, HD, TRANSFERS, ColorTags, color_tags, fitted, yuv_to_bgr
from preprocessing.media.containers import clock_start, decodable_tracks, open_media, video_stream
from preprocessing.media.planar_frame import as_planar, is_planar, planar_from_bgr
from preprocessing.media.reading.deinterlacing import deinterlaced
from preprocessing.media.reading.frame_rate import DEFAULT_FPS, header_rate, speech_rate, stamped_rate
from preprocessing.media.reading.orientation import Orientation, frame_orientation
from preprocessing.media.reading.photos import is_photo, read_image
from preprocessing.media.timeline import RESTARTING, Scan, decode, has_clock

__all__ = ["VideoInfo", "decode", "open_media", "probe", "read_frames", "read_image"]
# Matroska counts milliseconds: with stamps rounded down, frames at half the rate would be dropped in pairs.
STAMP_ERROR = Fraction(1, 2000)  # seconds


@dataclass(frozen=True, kw_only=True)
class VideoInfo(ColorTags):
    """Properties of a video or photo as `read_frames` returns it.

    Attributes:
        width, height: pixels of an upright frame.
        fps: frames per second as read: `native_fps`, or a multiple or divisor of it between 24 and 60.
        duration: seconds on the file's clock, which starts at its earliest stream.
        rotation, mirrored: the `Orientation` that is applied.
        planar: whether `read_frames` can yield planar frames.
        seekable: whether reading can start in the middle.
        notes: remarks on what is changed while reading, each one line.
    """

    width: int
    height: int
    fps: Fraction
    duration: float
    rotation: int = 0
    mirrored: bool = False
    has_audio: bool = False
    is_image: bool = False
    planar: bool = False
    sample_aspect_ratio: Fraction = Fraction(1)
    native_fps: Fraction = DEFAULT_FPS
    seekable: bool = True
    notes: tuple[str, ...] = ()

    @property
    def orientation(self) -> Orientation:
        """How decoded frames are turned upright."""
        return Orientation(self.rotation, self.mirrored)

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height before turning."""
        return (self.height, self.width) if self.orientation.turned else (self.width, self.height)


def probe(path: Path | str) -> VideoInfo:
    """Probe a video or photo, decoding at most its first frame. Raises MediaError if it has no video stream."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return _probe.__wrapped__(path, ())  # raises the right error
    return _probe(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=32)
def _probe(path: Path | str, _state: tuple[int, ...]) -> VideoInfo:
    """Cached by the file's state: a video is read in many parts, and some formats must be scanned to the end."""
    if is_photo(path):
        return _photo_info(path)
    with open_media(path) as container:
        stream = video_stream(container, path)
        rate, duration = header_rate(stream), _duration(container, stream)
        timed, may_restart = has_clock(container), container.format.name in RESTARTING
        frame = next(decode(container, stream), None)
        if frame is None:
            raise MediaError(f"{display_path(path)} has no decodable video frame")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        has_audio = bool(decodable_tracks(container))
    seekable = timed
    if rate is None or duration is None or not timed or may_restart:
        scan = _scan(path)
        rate = rate or stamped_rate(scan.times) or DEFAULT_FPS
        seekable = timed and not scan.joints
        if duration is None or not timed or may_restart:
            duration = max(scan.times) + float(1 / rate) if scan.times else float(scan.count / rate)
    orientation = frame_orientation(frame)
    turned = orientation.turned
    return VideoInfo(
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        fps=speech_rate(rate),
        native_fps=rate,
        duration=duration,
        rotation=orientation.rotation,
        mirrored=orientation.mirrored,
        has_audio=has_audio,
        planar=orientation == Orientation() and is_planar(frame),
        sample_aspect_ratio=1 / aspect if turned else aspect,
        seekable=seekable,
        notes=tuple(_notes(frame, rate)),
        **vars(color_tags(frame)),
    )


def _scan(path: Path | str) -> Scan:
    with open_media(path) as container:
        return Scan.of(container, video_stream(container, path))


def _notes(frame: av.VideoFrame, rate: Fraction) -> Iterator[str]:
    """What is changed while reading."""
    if (read := speech_rate(rate)) != rate:
        yield f"it has {float(rate):.4g} frames per second and is read at {float(read):.4g}"
    if frame.interlaced_frame:
        yield "it is interlaced and is deinterlaced"
    transfer = hdr.TRANSFERS.get(TRANSFERS.get(int(frame.color_trc), ""))
    if transfer:
        yield f"it is HDR ({transfer}) and is tone-mapped to the standard range"


def read_frames(
    path: Path | str,
    *,
    fps: Fraction | None = None,
    start: float = 0.0,
    end: float | None = None,
    max_side: int | None = None,
    background: tuple[int, int, int] = BLACK,
    planar: bool = False,
) -> Iterator[np.ndarray]:
    """Yield frames as uint8 BGR (H, W, 3), upright, at the constant rate `fps` (default: the file's own).

    Frame k is the last one whose timestamp, rounded to the grid of `fps`, is not after start + k / fps; the whole
    file yields round(duration * fps) frames, fewer if it is truncated. `start` and `end` are in seconds. `max_side`
    downscales frames during conversion, keeping the aspect ratio. Where the size changes, frames are fitted into the
    first one's. Transparency shows `background`, a BGR color. A photo yields one frame. Arrays are never shared.
    `planar` yields `PlanarFrame`s, which act as such arrays, from a video whose info says that it can.
    Raises MediaError if nothing can be decoded, UsageError for an invalid rate, span or size.
    """
    _check_request(fps, start, end, max_side)
    info = probe(path)
    if info.is_image:
        image = _shrink(read_image(path, background), max_side)
        yield planar_from_bgr(image, yuv_to_bgr(HD.colorspace, False)) if planar else image  # type: ignore[misc]
        return
    stop = info.duration if end is None else min(end, info.duration)
    if start >= stop:
        raise UsageError(f"start must be before the end of {display_path(path)} at {info.duration:.3f} s, not {start}")
    rate = Fraction(fps or info.fps)
    count = max(1, round((stop - start) * rate))
    size = _fit(*info.coded_size, max_side)
    for frame, repeats in _filled_slots(path, info, rate, start, count):
        if planar:
            yield from as_planar(frame, info, info.coded_size, repeats)
            continue
        image = info.orientation.apply(fitted(frame, info.coded_size, size, background))
        for _ in range(repeats - 1):
            yield image.copy()
        yield image


def _photo_info(path: Path | str) -> VideoInfo:
    height, width = read_image(path).shape[:2]
    second = 1 / DEFAULT_FPS
    return VideoInfo(
        width=width, height=height, fps=DEFAULT_FPS, duration=float(second), is_image=True,
        planar=width % 2 == height % 2 == 0, colorspace="gbr",
    )  # fmt: skip


def _check_request(fps: Fraction | None, start: float, end: float | None, max_side: int | None) -> None:
    if fps is not None and not 0 < fps <= 1000:
        raise UsageError(f"fps must be above 0 and at most 1000, not {fps}")
    if not 0 <= start < math.inf or (end is not None and not end > start):
        raise UsageError(f"start and end must be seconds with 0 <= start < end, not {start} and {end}")
    if max_side is not None and max_side < 1:
        raise UsageError(f"max_side must be at least 1 pixel, not {max_side}")


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds from the clock's start to the end of the video stream; None if the headers lack it."""
    origin = clock_start(container)
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base - origin)
    # Matroska keeps a stream's end in a tag, 00:00:10.010000000.
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if tag:
        return float(int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3]) - origin)
    return container.duration / av.time_base if container.duration else None


def _timed_frames(path: Path | str, info: VideoInfo, start: float) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Yields (frame, seconds on the file's clock), starting with a frame at or before `start`."""
    if start > 1 and info.seekable:
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
        stream, origin = video_stream(container, path), clock_start(container)
        timed = has_clock(container)
        if seek is not None:
            try:
                container.seek(math.floor((origin + seek) / stream.time_base), stream=stream)
            except av.FFmpegError:
                return
        time = -1 / info.native_fps
        for frame in decode(container, stream):
            known = timed and frame.pts is not None
            if not known and seek is not None:
                return
            # A frame without a timestamp follows its predecessor.
            time = frame.pts * frame.time_base - origin if known else time + 1 / info.native_fps
            yield frame, time


def _filled_slots(
    path: Path | str, info: VideoInfo, rate: Fraction, start: float, count: int
) -> Iterator[tuple[av.VideoFrame, int]]:
    """(frame, number of slots it fills) until `count` slots of 1 / rate seconds, the first at `start`, are full."""
    held, filled, slot = None, 0, 0
    for frame, time in deinterlaced(_timed_frames(path, info, start)):
        slot = min(math.floor((time + STAMP_ERROR - Fraction(start)) * rate + Fraction(1, 2)), count)
        if held is not None and slot > filled:
            yield held, slot - filled
            filled = slot
        held = frame  # the first of all also fills what lies before it
        if filled >= count:
            return
    if held is None:
        raise MediaError(f"{display_path(path)} has no decodable video frame")
    lasts = held.duration * held.time_base if held.duration else 1 / info.native_fps
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
