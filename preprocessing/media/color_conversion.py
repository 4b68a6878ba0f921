"""Color conversion: decoded frames to BGR by their tags, and BGR back to video with the same tags."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation

from preprocessing.errors import UsageError
from preprocessing.media import hdr

# ffmpeg's names for the code points of ITU-T H.273; other numbers count as unspecified.
RANGES = {1: "tv", 2: "pc"}
MATRICES = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020",
             10: "smpte428", 11: "smpte431", 12: "smpte432"}  # fmt: skip
TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear",
             13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 18: "arib-std-b67"}  # fmt: skip

# H.273's luma weights of red and blue. Untagged video is decoded as BT.601, ffmpeg's convention.
LUMA = {
    None: (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
# The scale filter's names for the matrices.
SCALE_MATRICES = {None: "bt601", "bt470bg": "bt601", "bt2020nc": "bt2020", "bt2020c": "bt2020"}

# swscale's default 8-bit path loses 1 to 2 levels of brightness; these flags select the accurate one.
EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


SAME_SHAPE = 1.02  # frames whose aspect ratios differ by less are stretched


@dataclass(frozen=True, kw_only=True)
class ColorTags:
    """A video's color tags, in ffmpeg's names; None if unspecified. RGB pixels have colorspace "gbr"."""

    color_range: str | None = None
    colorspace: str | None = None
    color_primaries: str | None = None
    color_transfer: str | None = None


# Frames from non-YUV sources (photos, screen recordings) are written as BT.709, which all players agree on.
HD = ColorTags(color_range="tv", colorspace="bt709", color_primaries="bt709", color_transfer="bt709")


BLACK = (0, 0, 0)


def parse_color(text: str) -> tuple[int, int, int]:
    """A color by its CSS name or as #rrggbb, in the order B, G, R.

    Raises:
        UsageError: it is none.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise UsageError(f"background must be a color such as black, white or #00ff00, not {text!r}") from None
    return blue, green, red


def blended(image: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3), or (H, W, 4) with alpha over a BGR color, to uint8 (H, W, 3)."""
    if image.shape[2] == 3:
        return image
    alpha = image[:, :, 3:].astype(np.float32) / 255
    behind = np.array(background, np.float32)
    return np.rint(image[:, :, :3] * alpha + behind * (1 - alpha)).astype(np.uint8)


def is_hdr(frame: av.VideoFrame) -> bool:
    """Whether `to_bgr` maps the frame's tones to the standard range."""
    return TRANSFERS.get(int(frame.color_trc)) in hdr.TRANSFERS


def color_tags(frame: av.VideoFrame) -> ColorTags:
    """Color tags of a frame as `to_bgr` returns it."""
    if is_hdr(frame):
        return HD
    return ColorTags(
        color_range=RANGES.get(int(frame.color_range)),
        colorspace="gbr" if frame.format.is_rgb or frame.format.has_palette else MATRICES.get(int(frame.colorspace)),
        color_primaries=PRIMARIES.get(int(frame.color_primaries)),
        color_transfer=TRANSFERS.get(int(frame.color_trc)),
    )


def to_bgr(
    frame: av.VideoFrame, width: int, height: int, background: tuple[int, int, int] = BLACK
) -> np.ndarray:  # fmt: skip
    """Converts a frame of any pixel format to uint8 BGR (height, width, 3) by its own tags.

    HDR is tone-mapped to the standard range; transparency shows `background`, a BGR color.
    """
    transfer = TRANSFERS.get(int(frame.color_trc))
    if transfer in hdr.TRANSFERS:
        return hdr.tone_mapped(frame, width, height, transfer)
    if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
        pixels = frame.reformat(width, height, "bgra", interpolation=EXACT).to_ndarray()
        return blended(pixels, background)
    if (width, height) != (frame.width, frame.height):
        # Downscaled frames are for detectors, where speed matters more than a level of brightness.
        return frame.reformat(width, height, "bgr24", interpolation=Interpolation.BILINEAR).to_ndarray()
    tags = color_tags(frame)
    if frame.format.name in ("yuv420p", "yuvj420p") and tags.colorspace in LUMA:
        full = tags.color_range == "pc" or frame.format.name == "yuvj420p"
        return _planes_to_bgr(frame, yuv_to_bgr(tags.colorspace, full))
    return frame.reformat(format="bgr24", interpolation=EXACT).to_ndarray()


def fitted(
    frame: av.VideoFrame, coded: tuple[int, int], size: tuple[int, int], background: tuple[int, int, int] = BLACK
) -> np.ndarray:  # fmt: skip
    """Converts a frame of a video whose frames are `coded` (width, height) to BGR of `size`.

    A frame of another size is scaled; where its shape differs, too, it gets black bars.
    """
    width, height = size
    shape = (frame.width / frame.height) / (coded[0] / coded[1])
    if 1 / SAME_SHAPE < shape < SAME_SHAPE:
        return to_bgr(frame, width, height, background)
    inner_width, inner_height = round(width * min(1, shape)), round(height * min(1, 1 / shape))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + inner_height, left : left + inner_width] = to_bgr(frame, inner_width, inner_height, background)
    return image


def yuv_to_bgr(matrix: str | None, full: bool) -> np.ndarray:
    """The affine map (3, 4) from 8-bit Y, Cb, Cr (and 1) to 8-bit B, G, R (ITU-T H.273, equations 38 to 40)."""
    red, blue = LUMA[matrix]
    green = 1 - red - blue
    luma, chroma, black = (1, 1, 0) if full else (255 / 219, 255 / 224, 16)
    turn = np.array(
        [
            [1, 2 * (1 - blue), 0],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 0, 2 * (1 - red)],
        ]
    ) * [luma, chroma, chroma]
    return np.hstack([turn, -turn @ [[black], [128], [128]]])


def _planes_to_bgr(frame: av.VideoFrame, turn: np.ndarray) -> np.ndarray:
    """OpenCV path for the most common format: as accurate as swscale's exact path in a third of the time."""
    luma, *chroma = (np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes)
    size = (luma.shape[1], luma.shape[0])  # odd sides are stretched, as swscale does
    return cv2.transform(cv2.merge([luma, *(cv2.resize(p, size, interpolation=cv2.INTER_CUBIC) for p in chroma)]), turn)


def writable(tags: ColorTags | None) -> ColorTags:
    """Tags to write for frames that had `tags`; RGB frames and frames without a source become BT.709."""
    return HD if tags is None or tags.colorspace == "gbr" else tags


def tag_options(tags: ColorTags) -> dict[str, str]:
    """ffmpeg output options for the tags; before ffmpeg 7 those set by `setparams` do not reach the encoder."""
    options = {
        "color_range": tags.color_range,
        "colorspace": tags.colorspace,
        "color_primaries": tags.color_primaries,
        "color_trc": tags.color_transfer,
    }
    return {name: tag for name, tag in options.items() if tag is not None}


def to_yuv(stream: Any, tags: ColorTags, pixels: str, aspect: Fraction) -> Any:
    """ffmpeg filters from BGR to `pixels` (yuv420p, yuv444p), converted and tagged by `tags`.

    Unspecified tags stay unspecified, so that a player treats the copy like the source.
    """
    scaled = stream.filter(
        "scale",
        out_color_matrix=SCALE_MATRICES.get(tags.colorspace, tags.colorspace),
        out_range="pc" if tags.color_range == "pc" else "tv",
        flags="bicubic+accurate_rnd+full_chroma_inp",  # as in EXACT
    )
    return tagged(scaled.filter("format", pixels), tags, aspect)


def tagged(stream: Any, tags: ColorTags, aspect: Fraction) -> Any:
    """ffmpeg filters that tag yuv frames without converting them."""
    marked = stream.filter(
        "setparams",
        range=tags.color_range or "unknown",
        colorspace=tags.colorspace or "unknown",
        color_primaries=tags.color_primaries or "unknown",
        color_trc=tags.color_transfer or "unknown",
    )
    return marked.filter("setsar", f"{aspect.numerator}/{aspect.denominator}")
