"""Small recordings with known content: numbered frames, flashes and clicks at the same times, HEIC photos."""

from __future__ import annotations

import struct
import subprocess
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from skimage.data import astronaut

from preprocessing.media.audio import load_audio
from preprocessing.media.video_reader import read_frames
from preprocessing.media.video_writer import ffmpeg_binary

SIDE = 64


def run_ffmpeg(*arguments: object) -> None:
    subprocess.run([ffmpeg_binary(), "-y", "-v", "error", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def photo(width: int = 160, height: int = 120) -> np.ndarray:
    """(height, width, 3) uint8 BGR."""
    return cv2.resize(astronaut()[:, :, ::-1], (width, height), interpolation=cv2.INTER_AREA)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(float) - other) ** 2))))


def save_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """(n,) or (n, channels) floats, -1 to 1, as 16-bit WAV."""
    samples = samples.reshape(len(samples), -1)
    with wave.open(str(path), "wb") as file:
        file.setparams((samples.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


def noise(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """(n,) float32: noise below 3 kHz, which every codec keeps."""
    count = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=count))
    spectrum[np.fft.rfftfreq(count, 1 / rate) > 3000] = 0
    samples = np.fft.irfft(spectrum, count)
    return (0.2 * samples / samples.std()).clip(-0.9, 0.9).astype(np.float32)


def white_noise(seconds: float, dbfs: float = -20.0, seed: int = 0) -> np.ndarray:
    """White noise of the given level, 16 kHz."""
    return np.random.default_rng(seed).normal(0, 10 ** (dbfs / 20), round(seconds * 16000)).astype(np.float32)


def delay(samples: np.ndarray, reference: np.ndarray, rate: int = 16000) -> float:
    """Seconds by which `samples` lag behind `reference`, by cross-correlation."""
    size = 2 * max(len(samples), len(reference))
    peak = int(np.argmax(np.fft.irfft(np.fft.rfft(samples, size) * np.conj(np.fft.rfft(reference, size)))))
    return (peak if peak < size // 2 else peak - size) / rate


def flashes_and_clicks(path: Path, seconds: float, times: Sequence[float], *options: object) -> Path:
    """A video, 25 fps, that is white for one frame and clicks at each of `times`, multiples of 0.04."""
    pictures = np.full((round(seconds * 25), SIDE, SIDE), 40, np.uint8)
    sound = np.zeros(round(seconds * 48000), np.float32)
    for time in times:
        pictures[round(time * 25)] = 235
        sound[round(time * 48000) :][:96] = 0.8
    (path.parent / "raw.gray").write_bytes(pictures.tobytes())
    save_wav(path.parent / "clicks.wav", sound, 48000)
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{SIDE}x{SIDE}", "-r", 25, "-i", path.parent / "raw.gray"]
    run_ffmpeg(*raw, "-i", path.parent / "clicks.wav", "-pix_fmt", "yuv420p", *options, path)
    return path


def flash_times(path: Path) -> np.ndarray:
    """Seconds at which frames are white."""
    return np.flatnonzero([frame.mean() > 140 for frame in read_frames(path, fps=25)]) / 25


def click_times(path: Path) -> np.ndarray:
    """Seconds at which clicks begin."""
    samples = np.abs(load_audio(path))
    loud = np.flatnonzero(samples > 0.4 * samples.max())
    return loud[np.diff(loud, prepend=-16000) > 3000] / 16000


def level(number: int) -> int:
    """A gray level that distinguishes frame `number` from its neighbors after encoding."""
    return 20 + 8 * number


def numbered_video(
    path: Path, stamps: Sequence[float], *, rate: Any = 25, size: tuple[int, int] = (SIDE, SIDE),
    codec: str = "libx264", pixels: str = "yuv420p", **options: str,
) -> Path:  # fmt: skip
    """A video whose frame n is a plain gray level(n) shown from stamps[n] seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "10", **options})
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, stamp in enumerate(stamps):
            image = np.full((size[1], size[0], 3), level(number), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = round(stamp * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# HEIC ----------------------------------------------------------------------------------------------------------------


def heic(path: Path, picture: np.ndarray, tile: int | None = None, quarter_turns: int = 0) -> Path:
    """Writes (H, W, 3) BGR as a HEIC photo (ISO/IEC 23008-12), in tiles of `tile` pixels like the photos of phones.

    `quarter_turns`: counterclockwise, to be applied by the reader.
    """
    height, width = picture.shape[:2]
    side = tile or max(height, width)
    rows, columns = (-(-height // side), -(-width // side)) if tile else (1, 1)
    parts = [picture]
    if tile:  # the last ones reach beyond the picture
        grown = cv2.copyMakeBorder(picture, 0, rows * side - height, 0, columns * side - width, cv2.BORDER_REPLICATE)
        bands = [band for row in np.split(grown, rows) for band in np.split(row, columns, axis=1)]
        parts = [np.ascontiguousarray(band) for band in bands]
    coded = [_hevc_picture(path.parent / "tile.mp4", part) for part in parts]
    items = [data for _, data in coded]
    if tile:
        items.append(struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height))
    path.write_bytes(_heif(items, coded[0][0], parts[0].shape, (height, width), bool(tile), quarter_turns))
    return path


def _hevc_picture(scratch: Path, picture: np.ndarray) -> tuple[bytes, bytes]:
    """The decoder's configuration (hvcC box) and the coded picture."""
    with av.open(str(scratch), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:qp=8"})
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
        stream.codec_context.color_range = 2
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuvj420p")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            packet.pts = packet.dts = 0  # of a single picture, x265 gives any number, which the muxer may refuse
            container.mux(packet)
    content = scratch.read_bytes()
    at = content.index(b"hvcC") - 4
    with av.open(str(scratch)) as container:
        data = b"".join(bytes(packet) for packet in container.demux(video=0))
    return content[at : at + int.from_bytes(content[at : at + 4], "big")], data


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", len(content) + 8) + kind + content


def _heif(
    items: list[bytes], hvcc: bytes, part: tuple[int, ...], whole: tuple[int, int], grid: bool, turns: int
) -> bytes:  # fmt: skip
    """The file: all coded pictures, and the grid that names them, if there is one, as the last item."""
    numbers, main = range(1, len(items) + 1), len(items)
    entries = [
        _box(b"infe", struct.pack(">IHH", 2 << 24, n, 0), b"grid" if grid and n == main else b"hvc1", b"\0")
        for n in numbers
    ]
    ispe = [_box(b"ispe", struct.pack(">III", 0, size[1], size[0])) for size in (part[:2], whole)]
    properties = _box(b"ipco", hvcc, *ispe, _box(b"irot", bytes([turns])))
    # Properties: 1 hvcC and 4 irot are essential (0x80), 2 and 3 are the sizes of a part and of the whole.
    own = [b"\x02\x81\x02"] * (main - 1) + [b"\x02\x03\x84"] if grid else [b"\x03\x81\x02\x84"]
    links = b"".join(struct.pack(">H", n) + uses for n, uses in zip(numbers, own, strict=True))
    parts = [
        _box(b"hdlr", bytes(8), b"pict", bytes(13)),
        _box(b"pitm", struct.pack(">IH", 0, main)),
        _box(b"iinf", struct.pack(">IH", 0, len(items)), *entries),
        _box(b"iprp", properties, _box(b"ipma", struct.pack(">II", 0, len(items)), links)),
    ]
    if grid:
        tiles = struct.pack(f">HH{main - 1}H", main, main - 1, *range(1, main))
        parts.append(_box(b"iref", bytes(4), _box(b"dimg", tiles)))
    head = _box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    length = len(head) + 12 + sum(map(len, parts)) + 16 + 14 * len(items) + 8
    starts = length + np.cumsum([0, *map(len, items)])[:-1]
    places = [
        struct.pack(">HHHII", n, 0, 1, start, len(item)) for n, start, item in zip(numbers, starts, items, strict=True)
    ]
    parts.append(_box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, len(items)), *places))
    return head + _box(b"meta", bytes(4), *parts) + _box(b"mdat", *items)
