"""Whether a generated video is whole and valid, looked at as a player and a viewer would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from inference.face_source import FaceSource, Framing
from preprocessing.errors import MediaError, display_path
from preprocessing.media.audio import frame_count, load_audio
from preprocessing.media.video_reader import open_media

RATE = 16000
SPARE = 2  # frames by which lengths may differ
LOUDER = 3.0  # decibels by which levels may differ
SILENT = -60.0  # decibels under full scale: what is quieter counts as silence
OTHER = 8  # levels: a picture whose middle change is greater is another picture
FLAT = 2.0  # levels: standard deviation under which a picture is plain
CHANGED = 24  # levels that tell a repainted pixel
PATCH = 16  # pixels, black or white ones that were not so, that make a patch, if they are a quarter of the changed ones


def check_video(path: Path, face: Path, audio: Path) -> str:
    """The first reason why a video that was made of a face and a sound is not whole and valid, "" if there is none.

    It must open, with its index in front of its data; every frame must decode; size and rate must be the face's,
    pictures and sound as long as the given sound, within two frames; the sound as loud, within 3 dB; and no picture
    plain, another one, or with a black or white patch, where the face's is not so.
    """
    try:
        source, wanted = FaceSource(face, Framing()), load_audio(audio)
        frames = frame_count(len(wanted), source.fps)
        checks = (_index(path), _pictures(path, source, frames), _sound(path, wanted, SPARE / float(source.fps)))
        return next((reason for check in checks for reason in check), "")
    except (MediaError, ValueError, OSError, av.FFmpegError) as error:
        return " ".join(str(error).split())


def _index(path: Path) -> Iterator[str]:
    """Of an .mp4 or .mov: the atom moov stands before mdat."""
    if path.suffix.lower() in (".mp4", ".mov"):
        order = [name for name in _atoms(path) if name in (b"moov", b"mdat")]
        if order != [b"moov", b"mdat"]:
            yield f"{display_path(path.name)} has its index behind its data, or lacks one of them"


def _atoms(path: Path) -> Iterator[bytes]:
    """Names of the outermost atoms (ISO 14496-12, 4.2: size, name, and 64 bits more of a size that is 1)."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, name = int.from_bytes(head[:4], "big"), head[4:]
            yield name
            if size == 0:
                return
            size = int.from_bytes(file.read(8), "big") - 8 if size == 1 else size
            file.seek(size - 8, 1)


def _pictures(path: Path, source: FaceSource, frames: int) -> Iterator[str]:
    with open_media(path) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            yield f"{display_path(path.name)} has no picture"
            return
        size = stream.codec_context.width, stream.codec_context.height
        if size != source.size:
            yield f"it is {size[0]}x{size[1]}, the face {source.size[0]}x{source.size[1]}"
            return
        if stream.average_rate is None or abs(float(stream.average_rate / source.fps) - 1) > 0.01:
            yield f"it has {float(stream.average_rate or 0):g} frames a second, the face {float(source.fps):g}"
        count, decoded = 0, _decoded(container, stream)
        for (_, given), made in zip(source.play(frames + SPARE, "bounce"), decoded, strict=False):
            if reason := fault(made, given):
                yield f"picture {count} {reason}"
            count += 1
        count += sum(1 for _ in decoded)
    if abs(count - frames) > SPARE:
        yield f"it has {count} pictures, and its sound lasts {frames}"


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[np.ndarray]:
    """Every picture, (H, W, 3) uint8 BGR.

    Raises:
        MediaError: one is damaged.
    """
    stream.codec_context.options = {"err_detect": "explode"}
    for index, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise MediaError(f"picture {index} is damaged")
        yield frame.to_ndarray(format="bgr24")


def fault(made: np.ndarray, given: np.ndarray) -> str:
    """What is wrong with a picture against the one that it was made of, (H, W, 3) uint8 each; "" if nothing is."""
    if made.std() < FLAT <= given.std():
        return "is plain, black for instance"
    change = np.abs(made.astype(np.int16) - given.astype(np.int16)).max(axis=2)
    if np.median(change) > OTHER:
        return "is not the face's"
    repainted = change > CHANGED
    blank = repainted & ((made <= 2).all(axis=2) | (made >= 253).all(axis=2))
    if blank.sum() >= max(PATCH, 0.25 * repainted.sum()):
        return "has a black or white patch"
    return ""


def _sound(path: Path, wanted: np.ndarray, spare: float) -> Iterator[str]:
    """`spare`: seconds by which its length may differ."""
    found = load_audio(path)
    if abs(len(found) - len(wanted)) > spare * RATE:
        yield f"its sound lasts {len(found) / RATE:.2f} s, not {len(wanted) / RATE:.2f} s"
    theirs, ours = level(found), level(wanted)
    if max(theirs, ours) > SILENT and abs(theirs - ours) > LOUDER:
        yield f"its sound has {theirs:.0f} dB, not {ours:.0f} dB"


def level(samples: np.ndarray) -> float:
    """Root mean square of (n,) samples, -1 to 1, in decibels under full scale, -100 at least."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return 10 * np.log10(max(power, 1e-10))
