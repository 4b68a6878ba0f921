"""Checks that a generated video is complete and valid, as a player and a viewer would see it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from inference.files.face_source import FaceSource, Framing
from preprocessing.errors import MediaError, display_path
from preprocessing.media.audio import frame_count, load_audio
from preprocessing.media.video_reader import open_media
from preprocessing.media.video_writer import ffmpeg_binary

RATE = 16000
FRAME_TOLERANCE = 2  # frames by which lengths may differ
LEVEL_TOLERANCE = 3.0  # decibels by which levels may differ
SILENCE_LEVEL = -60.0  # dBFS; anything quieter counts as silence
MAX_MEDIAN_CHANGE = 8  # levels; above this median change a frame shows something else
DITHER = (5, 5)  # pixels that are averaged first: a GIF's pattern of few colors does not survive video coding
FLAT_STD = 2.0  # levels; below this standard deviation a frame is blank
REPAINTED = 24  # levels; above this change a pixel counts as repainted
THUMB = 32  # pixels: side of the pictures compared with ffmpeg's view
ALIKE = 0.95  # correlation of two thumbnails that show the same; mirrored faces have 0.5 to 0.9
PATCH = 16  # newly black or white pixels that count as a patch, if they are a quarter of the repainted ones


def check_video(path: Path, face: Path, audio: Path) -> str:
    """The first reason why a video generated from a face and audio is not complete and valid; "" if there is none.

    It must open and have its index before its data; every frame must decode; size and frame rate must match the face;
    video and audio must be as long as the given audio within two frames, and as loud within 3 dB; and no frame may be
    blank, show something else, or have a black or white patch, unless the face's frame does. As both are read by the
    reader that made the video, the ffmpeg program must show the same in them, too: the same way up, at the same times.
    """
    try:
        source, wanted = FaceSource(face, Framing()), load_audio(audio)
        frames = frame_count(len(wanted), source.fps)
        tolerance = FRAME_TOLERANCE / float(source.fps)
        checks = (
            _check_index(path), _check_frames(path, source, frames), _check_view(path, face),
            _check_audio(path, wanted, tolerance),
        )  # fmt: skip
        return next((reason for check in checks for reason in check), "")
    except (MediaError, ValueError, OSError, av.FFmpegError) as error:
        return " ".join(str(error).split())


def _check_index(path: Path) -> Iterator[str]:
    """In an .mp4 or .mov, the moov atom must precede mdat."""
    if path.suffix.lower() in (".mp4", ".mov"):
        order = [name for name in _atoms(path) if name in (b"moov", b"mdat")]
        if order != [b"moov", b"mdat"]:
            yield f"{display_path(path.name)} lacks an index or data, or has its index after its data"


def _atoms(path: Path) -> Iterator[bytes]:
    """Names of the top-level atoms (ISO 14496-12, 4.2: size, name, and a 64-bit size if the size is 1)."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, name = int.from_bytes(head[:4], "big"), head[4:]
            yield name
            if size == 0:
                return
            size = int.from_bytes(file.read(8), "big") - 8 if size == 1 else size
            file.seek(size - 8, 1)


def _check_frames(path: Path, source: FaceSource, frames: int) -> Iterator[str]:
    with open_media(path) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            yield f"{display_path(path.name)} has no video track"
            return
        size = stream.codec_context.width, stream.codec_context.height
        width, height = source.size
        wanted = width + width % 2, height + height % 2  # odd sides grow
        if size != wanted:
            yield f"size is {size[0]}x{size[1]}, not {wanted[0]}x{wanted[1]}"
            return
        if stream.average_rate is None or abs(float(stream.average_rate / source.fps) - 1) > 0.01:
            yield f"frame rate is {float(stream.average_rate or 0):g} fps, not {float(source.fps):g}"
        count, decoded = 0, _decode(container, stream)
        for (_, given), made in zip(source.play(frames + FRAME_TOLERANCE, "bounce"), decoded, strict=False):
            if reason := frame_fault(made[:height, :width], given):
                yield f"frame {count} {reason}"
            count += 1
        count += sum(1 for _ in decoded)
    if abs(count - frames) > FRAME_TOLERANCE:
        yield f"video has {count} frames, but its audio lasts {frames}"


def _decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[np.ndarray]:
    """All frames, (H, W, 3) uint8 BGR.

    Raises:
        MediaError: a frame is damaged.
    """
    stream.codec_context.options = {"err_detect": "explode"}
    for index, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise MediaError(f"frame {index} is damaged")
        yield frame.to_ndarray(format="bgr24")


def frame_fault(made: np.ndarray, given: np.ndarray) -> str:
    """What is wrong with a frame compared with the one it was made from, (H, W, 3) uint8 each; "" if nothing."""
    if made.std() < FLAT_STD <= given.std():
        return "is blank"
    if np.median(_change(cv2.blur(made, DITHER), cv2.blur(given, DITHER))) > MAX_MEDIAN_CHANGE:
        return "does not match the face video"
    repainted = _change(made, given) > REPAINTED
    blank = repainted & ((made <= 2).all(axis=2) | (made >= 253).all(axis=2))
    if blank.sum() >= max(PATCH, 0.25 * repainted.sum()):
        return "has a black or white patch"
    return ""


def _change(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(H, W) the largest difference of a channel, levels."""
    return np.abs(one.astype(np.int16) - other.astype(np.int16)).max(axis=2)


def _check_view(path: Path, face: Path) -> Iterator[str]:
    """Compares thumbnails as the ffmpeg program decodes them; a file that it cannot decode is not compared."""
    made, given = (_thumbnails(file) for file in (path, face))
    likeness = [
        float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
        for one, other in zip(made, given, strict=False)
        if min(one.std(), other.std()) > FLAT_STD
    ]
    if likeness and np.median(likeness) < ALIKE:
        yield "ffmpeg shows other pictures in it than in the face video"


def _thumbnails(path: Path, seconds: int = 10) -> np.ndarray:
    """(N, 32, 32) uint8 gray, 25 a second, of the file as ffmpeg shows it, over black; none if it cannot."""
    view = f"format=rgba,premultiply=inplace=1,fps=25,scale={THUMB}:{THUMB}:flags=area"
    words = ["-i", f"file:{path}", "-an", "-t", str(seconds), "-vf", view, "-pix_fmt", "gray", "-f", "rawvideo", "-"]
    run = [ffmpeg_binary(), "-v", "quiet", "-nostdin", *words]
    pixels = np.frombuffer(subprocess.run(run, stdout=subprocess.PIPE, check=False).stdout, np.uint8)
    return pixels[: len(pixels) // THUMB**2 * THUMB**2].reshape(-1, THUMB, THUMB)


def _check_audio(path: Path, wanted: np.ndarray, tolerance: float) -> Iterator[str]:
    """`tolerance`: difference in length, in seconds."""
    found = load_audio(path)
    if abs(len(found) - len(wanted)) > tolerance * RATE:
        yield f"audio lasts {len(found) / RATE:.2f} s, not {len(wanted) / RATE:.2f} s"
    actual, expected = level(found), level(wanted)
    if max(actual, expected) > SILENCE_LEVEL and abs(actual - expected) > LEVEL_TOLERANCE:
        yield f"audio level is {actual:.0f} dB, not {expected:.0f} dB"


def level(samples: np.ndarray) -> float:
    """RMS of (n,) samples in [-1, 1], in dBFS, at least -100."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return 10 * np.log10(max(power, 1e-10))
