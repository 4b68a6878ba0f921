"""What a video can be written as: containers with their codecs, and animated pictures without sound."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ffmpeg

SOUND = (".mp4", ".mov", ".mkv", ".webm")
SILENT = (".gif", ".webp")
OUTPUTS = (*SOUND, *SILENT)

VP9_PER_H264 = 63 / 51  # the ranges of their quality factors
WEBP_QUALITY = 0.8  # points of WebP's quality, of 100, for one point of H.264's factor


LIGHT = "light"
# x264's veryfast without B frames and weights, with whole macroblocks only, searched less finely. On the two
# clips compared: SSIM 0.0005 lower and 0.001 higher, in 0.53 and 0.57 of the time, in files half as large again.
LIGHT_SEARCH = "bframes=0:weightp=0:partitions=i8x8:subme=1"


def video_options(suffix: str, crf: float, preset: str) -> dict[str, Any]:
    """The encoder's options; `crf` is H.264's factor, 0 to 51, whatever the format, `preset` x264's, or `LIGHT`."""
    if suffix == ".webm":
        return {
            "c:v": "libvpx-vp9", "crf": round(crf * VP9_PER_H264), "b:v": 0, "deadline": "good", "cpu-used": 5,
            "row-mt": 1,
        }  # fmt: skip
    if suffix == ".gif":
        return {"c:v": "gif"}
    if suffix == ".webp":
        return {"c:v": "libwebp_anim", "quality": round(100 - WEBP_QUALITY * crf), "loop": 0}
    if preset != LIGHT:
        return {"c:v": "libx264", "crf": crf, "preset": preset}
    return {"c:v": "libx264", "crf": crf, "preset": "veryfast", "x264-params": LIGHT_SEARCH}


def filtered(video: Any, suffix: str) -> Any:
    """The frames as the format wants them: a GIF's 256 colors are chosen for each frame, so memory stays constant."""
    if suffix != ".gif":
        return video
    halves = video.filter_multi_output("split")
    palette = halves[0].filter("palettegen", stats_mode="single")
    return ffmpeg.filter([halves[1], palette], "paletteuse", new=1, dither="sierra2_4a")


def comment_writer(suffix: str) -> Callable[[Path, Path, str], None] | None:
    """What writes a comment into a copy of a file; None if ffmpeg writes metadata into this format itself."""
    return {".gif": comment_gif, ".webp": comment_webp}.get(suffix)


def comment_gif(source: Path, target: Path, text: str) -> None:
    """Copies a GIF with a comment extension (GIF89a, section 24) after its header."""
    data = text.encode("ascii", "replace")
    blocks = b"".join(bytes([len(part)]) + part for part in (data[k : k + 255] for k in range(0, len(data), 255)))
    with open(source, "rb") as before, open(target, "wb") as after:
        header = before.read(13)
        table = 3 * 2 ** ((header[10] & 7) + 1) if header[10] & 0x80 else 0
        after.write(b"GIF89a" + header[6:] + before.read(table) + b"\x21\xfe" + blocks + b"\0")
        shutil.copyfileobj(before, after)


def comment_webp(source: Path, target: Path, text: str) -> None:
    """Copies an animated WebP with a description in an XMP chunk at its end (RIFF, little-endian)."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{escaped}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF>'
        "</x:xmpmeta>"
    ).encode()
    chunk = b"XMP " + struct.pack("<I", len(xmp)) + xmp + b"\0" * (len(xmp) % 2)
    shutil.copyfile(source, target)
    with open(target, "r+b") as file:
        head = file.read(21)
        if head[12:16] != b"VP8X":
            raise ValueError("not an animated WebP")
        file.seek(20)
        file.write(bytes([head[20] | 0x04]))  # the flag that announces XMP
        file.seek(0, os.SEEK_END)
        file.write(chunk)
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))
