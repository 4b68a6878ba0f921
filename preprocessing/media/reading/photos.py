"""Reads photos: jpg, png, webp, bmp, tiff, and the HEIC and AVIF of phones."""

import io
import warnings
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from preprocessing.errors import MediaError, display_path
from preprocessing.media.color_conversion import BLACK, blended
from preprocessing.media.containers import PHOTO_FORMATS, check_size, open_file, open_media, video_stream
from preprocessing.media.reading.orientation import EXIF, Orientation

NAMES = "jpg, png, webp, bmp, tiff, heic or avif"
# Brands in the first box of a file; those of image sequences (avis, hevc) are videos.
HEIC, AVIF = {b"heic", b"heix", b"heim", b"heis", b"mif1"}, {b"avif"}
JPEGS = ("jpeg_pipe", "mjpeg")  # a photo, a photo with others behind it, or a video
ANIMATED = 0x02  # flag of an extended WebP
ORIENTATION_TAG, DNG_TAG = 0x0112, 0xC612


def is_photo(path: Path | str) -> bool:
    """Whether the file is a photo, by its content; a stream of JPEGs of one size is a video."""
    if _brand(path) is not None:
        return True
    with open_media(path) as container:
        name = container.format.name
        if name in JPEGS:
            return not _is_motion_jpeg(container)
        return name in PHOTO_FORMATS


def _is_motion_jpeg(container: av.container.InputContainer, frames: int = 3) -> bool:
    """Photos of phones may hold a second and a third picture, of other sizes: a depth map, a gain map."""
    sizes = []
    try:
        for packet in container.demux(container.streams.video[0]):
            sizes += [(frame.width, frame.height) for frame in packet.decode()]
            if len(sizes) >= frames or len(set(sizes)) > 1:
                break
    except av.FFmpegError:
        return False
    return len(sizes) >= frames and len(set(sizes)) == 1


def read_image(path: Path | str, background: tuple[int, int, int] = BLACK) -> np.ndarray:
    """Read a photo as uint8 BGR (H, W, 3), upright by its EXIF tag; transparency shows `background`, a BGR color.

    Raises MediaError if it is not one, or damaged.
    """
    brand = _brand(path)
    if brand is not None:
        return _read_heif(path, brand, background)
    with open_media(path) as container:
        if container.format.name not in (*PHOTO_FORMATS, *JPEGS):
            raise MediaError(f"{display_path(path)} is not a {NAMES} photo")
        _reject_animation(path)
        video_stream(container, path)  # rejects invalid sizes before decoding
        turn = _exif_orientation(path, container.format.name)
    stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise MediaError(f"{display_path(path)} is a damaged photo")
    return turn.apply(blended(_eight_bits(stored), background))


def _eight_bits(stored: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 1, 3 or 4) of any depth to uint8 (H, W, 3 or 4)."""
    if np.issubdtype(stored.dtype, np.floating):
        stored = np.clip(np.nan_to_num(stored), 0, 1) * 255
    elif stored.dtype != np.uint8:
        stored = stored * (255 / np.iinfo(stored.dtype).max)
    stored = np.rint(stored).astype(np.uint8)
    return cv2.cvtColor(stored, cv2.COLOR_GRAY2BGR) if stored.ndim == 2 or stored.shape[2] == 1 else stored


def _reject_animation(path: Path | str) -> None:
    """Raises MediaError for an animated WebP, which FFmpeg does not decode."""
    with open_file(path) as file:
        head = file.read(21)
    if head[8:16] == b"WEBPVP8X" and head[20:] and head[20] & ANIMATED:
        raise MediaError(f"{display_path(path)} is an animated WebP, which cannot be read: convert it to mp4 or gif")


def _exif_orientation(path: Path | str, kind: str) -> Orientation:
    """The orientation in the photo's tags. Raises MediaError for a camera's raw file."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged tags
        try:
            with open_file(path) as file, Image.open(file) as image:
                tags = image.getexif()
                raw, number = DNG_TAG in tags, tags.get(ORIENTATION_TAG, 1)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return Orientation()
    if raw:
        raise MediaError(f"{display_path(path)} is a camera's raw file (DNG): export it as jpg, png or tiff")
    # OpenCV's TIFF decoder turns by itself.
    return Orientation() if kind == "tiff_pipe" else EXIF.get(number, Orientation())


def _brand(path: Path | str) -> bytes | None:
    """The brand of a HEIC or AVIF photo, None for other files."""
    with open_file(path) as file:
        head = file.read(64)
    if head[4:8] != b"ftyp":
        return None
    size = int.from_bytes(head[:4], "big")
    major, others = head[8:12], {head[at : at + 4] for at in range(16, min(size, 64), 4)}
    if major in HEIC | AVIF:
        return b"avif" if b"avif" in {major} | others else b"heic"
    return None


def _read_heif(path: Path | str, brand: bytes, background: tuple[int, int, int]) -> np.ndarray:
    """All tiles of the main picture, turned as the file says."""
    with open_file(path) as file:
        content = file.read()
    try:
        pixels = _avif_pixels(path, content) if brand == b"avif" else _heic_pixels(path, content)
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{display_path(path)} is a damaged {brand.decode().upper()} photo") from error
    return blended(np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]), background)


def _heic_pixels(path: Path | str, content: bytes) -> np.ndarray:
    """(H, W, 3 or 4) RGB, upright."""
    try:
        import pi_heif
    except ImportError as error:
        raise MediaError(f"{display_path(path)} is a HEIC photo: pip install pi-heif, or export it as jpg") from error
    picture = pi_heif.open_heif(content)  # its primary picture; decoded when asked for
    check_size(path, *picture.size)
    return _upright_rgb(picture.to_pillow())


def _avif_pixels(path: Path | str, content: bytes) -> np.ndarray:
    """(H, W, 3 or 4) RGB, upright."""
    from PIL import Image, features

    if not features.check("avif"):
        raise MediaError(f"{display_path(path)} is an AVIF photo: pip install 'pillow>=11.3', or export it as jpg")
    picture = Image.open(io.BytesIO(content), formats=["AVIF"])
    check_size(path, *picture.size)
    return _upright_rgb(picture)


def _upright_rgb(picture: Any) -> np.ndarray:
    """(H, W, 3 or 4) of a `PIL.Image.Image`, turned by its EXIF tag."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    return np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
