"""Hard inputs of another kind: files as phones, cameras, editors and messengers write them."""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from preprocessing.errors import MediaError
from preprocessing.media.audio import as_int16, load_audio
from preprocessing.media.video_reader import read_image
from preprocessing.media.video_writer import ffmpeg_binary

RATE = 16000  # Hz
CHANNELS = 9  # more than AAC takes
FIELDS = "fps=50,tinterlace=interleave_top,setfield=tff"
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
# By kind: file name, and ffmpeg's options before and after the input.
VIDEOS: dict[str, tuple[str, tuple[Any, ...], tuple[Any, ...]]] = {
    "mirrored": ("mirrored.mp4", ("-display_hflip",), ("-c", "copy")),
    "upside down": ("turned.mp4", ("-display_rotation", 180), ("-c", "copy")),
    "variable rate": (
        "still_then_talk.mp4", (), ("-vf", "select='gte(t,1)+eq(n,0)+eq(n,9)'", "-fps_mode", "vfr", *H264)
    ),
    "interlaced": ("interlaced.mp4", (), ("-vf", FIELDS, *H264, "-flags", "+ildct+ilme", "-x264opts", "tff=1")),
    "2 fps": ("slides.mp4", (), ("-vf", "fps=2", *H264)),
    "240 fps": ("slow_motion.mp4", (), ("-vf", "fps=240", "-t", 0.5, *H264)),
    "animation": ("animation.gif", (), ("-vf", "fps=10")),
    "elementary stream": ("bare.m1v", (), ("-c:v", "mpeg1video", "-q:v", 2)),
    "10 bits": ("deep.mkv", (), ("-c:v", "ffv1", "-pix_fmt", "yuv420p10le")),
}  # fmt: skip
SOUNDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "telephone": ("phone.mp3", ("-c:a", "libmp3lame", "-ar", 8000)),
    "voice message": ("message.opus", ("-c:a", "libopus", "-b:a", "24k")),
    "speech in a video": ("speech.ts", ("-c:a", "aac")),
}


def file_inputs(video: Path, photo: Path, speech: Path, folder: Path) -> list[tuple[str, Path, Path]]:
    """Makes (kind, face, audio) files from a video, a photo and speech; see `VIDEOS`, `SOUNDS`.

    Raises:
        MediaError: a file cannot be made.
    """
    made = [
        (kind, _ffmpeg(folder / name, video, before, after), speech) for kind, (name, before, after) in VIDEOS.items()
    ]
    made += [
        ("joined capture", _joined(video, folder, "joined.ts", H264), speech),
        ("size change", _joined(video, folder, "size_change.ts", ("-vf", "scale=iw/2:-2", *H264)), speech),
    ]
    made += [(kind, path, speech) for kind, path in _photos(photo, folder).items()]
    sounds = {kind: _ffmpeg(folder / name, speech, (), options) for kind, (name, options) in SOUNDS.items()}
    sounds |= {"two audio tracks": _two_tracks(speech, folder), **_channels(speech, folder)}
    return [*made, *((kind, video, sound) for kind, sound in sounds.items())]


def _ffmpeg(target: Path, source: Path, before: tuple[Any, ...], after: tuple[Any, ...]) -> Path:
    words = [ffmpeg_binary(), "-y", "-v", "error", *before, "-i", f"file:{source}", *after, f"file:{target}"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise MediaError(f"{target.name} cannot be made: {' '.join(done.stderr.split())}")
    return target


def _joined(video: Path, folder: Path, name: str, second: tuple[Any, ...]) -> Path:
    """Two captures of a transport stream in one file: the clock starts anew in the middle.

    `second`: ffmpeg's options of the second one.
    """
    joined, part = folder / name, folder / "part.ts"
    joined.write_bytes(
        b"".join(_ffmpeg(part, video, (), ("-t", 1.5, *options)).read_bytes() for options in (H264, second))
    )
    part.unlink()
    return joined


def _photos(photo: Path, folder: Path) -> dict[str, Path]:
    """An odd size, a transparent background, and formats of editors."""
    picture = read_image(photo)
    odd = picture[: picture.shape[0] // 2 * 2 - 1, : picture.shape[1] // 2 * 2 - 1]
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[: len(alpha) // 16] = 0
    made = {"odd.png": odd, "cutout.png": np.dstack([picture, alpha]), "photo.tiff": picture, "photo.bmp": picture}
    for name, image in made.items():
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, image)[1].tobytes())
    Image.fromarray(np.ascontiguousarray(picture[:, :, ::-1])).save(folder / "photo.avif")
    kinds = {
        "odd size": "odd.png", "cut-out": "cutout.png", "TIFF": "photo.tiff", "BMP": "photo.bmp", "AVIF": "photo.avif"
    }  # fmt: skip
    return {kind: folder / name for kind, name in kinds.items()}


def _two_tracks(speech: Path, folder: Path) -> Path:
    """Noise, and speech as the default track."""
    noise = ("-f", "lavfi", "-i", "anoisesrc=amplitude=0.1:duration=3:seed=1")
    tracks = ("-map", "0:a", "-map", "1:a", "-c:a", "aac", "-disposition:a:0", "0", "-disposition:a:1", "default")
    return _ffmpeg(folder / "two_tracks.mka", speech, noise, tracks)


def _channels(speech: Path, folder: Path) -> dict[str, Path]:
    """Channels that cancel each other, and more of them than codecs take."""
    samples = as_int16(load_audio(speech))
    made = {
        "opposite polarity": np.stack([samples, -samples], axis=1),
        "9 channels": np.repeat(samples[:, None], CHANNELS, 1),
    }
    paths = {}
    for kind, channels in made.items():
        paths[kind] = folder / f"{channels.shape[1]} channels.wav"
        with wave.open(str(paths[kind]), "wb") as file:
            file.setparams((channels.shape[1], 2, RATE, 0, "NONE", ""))
            file.writeframes(channels.astype("<i2").tobytes())
    return paths
