"""How a generated face looks beside the real one: arrays in, numbers out.

Pictures are points crops, (N, S, S, 3) uint8 BGR, one a frame at 25 a second; `made` and `real` show the same N frames.
Places in them are boxes in shares of the crop's side.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch

from inference.generator.compositing import crop_mask

Box = tuple[float, float, float, float]  # left, top, right, bottom
MASK = 53 / 128  # the first masked row of our generators
MASKED: Box = (0, MASK, 1, 1)
MOUTH: Box = (0.27, 0.33, 0.73, 0.79)  # a square around (0.5, 0.56)
LIPS: Box = (0.27, MASK, 0.73, 0.79)  # its masked part
HEAD: Box = (0.27, 0.2, 0.73, MASK)  # above it, from the eyes down: moves with the head, never with the speech

REDDEST: Box = (0.32, 0.5, 0.68, 0.74)  # the lips and the skin just around them, wherever they move

SECTORS = 16  # pieces of the mask's border, by the angle around its middle
STRIP = 1 / 32  # width of the strips on the two sides of it, share of the crop's side
PALEST = 5  # percentile of the frames
COLOURLESS = 0.5  # levels: of a face whose lips are no redder than this, the colours say nothing
SOFT = 0.02  # the border is where the mask lies between this and 1 less this
LEAST_QUIET = 5  # changes from frame to frame below which there is no flicker to measure
BLOCK = 32  # frames that are compared at once


def part(pictures: np.ndarray, box: Box) -> np.ndarray:
    """A box of pictures (N, S, S, ...), a view."""
    left, top, right, bottom = (round(share * pictures.shape[1]) for share in box)
    return pictures[:, top:bottom, left:right]


def difference(made: np.ndarray, real: np.ndarray) -> float:
    """Mean absolute difference of uint8 pictures, whole or parts, 0 to 1."""
    return float(np.abs(made.astype(np.float32) - real.astype(np.float32)).mean() / 255)


def psnr(made: np.ndarray, real: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures together, whole or parts, dB; of equal ones that of half a level."""
    error = np.square(made.astype(np.float64) - real.astype(np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 0.25)))


def ssim(made: np.ndarray, real: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of the mouth's square in points crops, mean over frames, -1 to 1.

    As torchmetrics has it: a Gaussian of 1.5 pixels, each colour by itself, the square mirrored at its edges.

    Raises:
        ModuleNotFoundError: torchmetrics is not installed.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = 0.0
    for first in range(0, len(made), BLOCK):
        squares = (part(pictures[first : first + BLOCK], MOUTH) for pictures in (made, real))
        one, two = (torch.from_numpy(square.transpose(0, 3, 1, 2).astype(np.float32)) for square in squares)
        found += float(structural_similarity_index_measure(one, two, data_range=255.0, reduction="sum"))  # type: ignore[arg-type]
    return found / len(made)


def sharpness(made: np.ndarray, real: np.ndarray) -> float | None:
    """The variance of the Laplacian on the mouth's square of points crops, mean over frames, by the real one's.

    1 is as sharp as the real video; noise and blocks count as sharp too. None where the real mouth is flat.
    """
    top, bottom = (np.mean([_detail(picture) for picture in pictures]) for pictures in (made, real))
    return float(top / bottom) if bottom > 0 else None


def _detail(picture: np.ndarray) -> float:
    """Of one (S, S, 3): filtered whole, so that the square's edge plays no part."""
    edges = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.CV_32F)
    return float(part(edges[None], MOUTH).var())


def palest_lips(made: np.ndarray, real: np.ndarray) -> float | None:
    """How red the lips are against the skin where they are palest, by the same of the real video.

    Of each frame the standard deviation, around the mouth, of the axis from green to red (a of CIE L*a*b*); of these
    the 5th percentile over the frames, so that one frame in twenty without lips is seen. 1 is the real video, near 0
    the lips have vanished into the skin, which hardly changes any mean. Teeth and tongue count a little. None where the
    real lips have no colour.

    Args:
        made, real: points crops (N, S, S, 3) uint8 BGR; their lengths may differ.
    """
    top, bottom = (np.percentile([_redness(picture) for picture in pictures], PALEST) for pictures in (made, real))
    return float(top / bottom) if bottom > COLOURLESS else None


def _redness(picture: np.ndarray) -> float:
    """Of one (S, S, 3), in levels of 8-bit a."""
    around = np.ascontiguousarray(part(picture[None], REDDEST)[0])
    return float(cv2.cvtColor(around, cv2.COLOR_BGR2LAB)[..., 1].std())


def change(pictures: np.ndarray, box: Box) -> float:
    """Mean absolute change of a box from frame to frame, in levels of 255; needs two frames."""
    return float(_changes(pictures, box).mean())


def _changes(pictures: np.ndarray, box: Box) -> np.ndarray:
    """(N - 1,), of each frame from the one before it."""
    seen = part(pictures, box).astype(np.int16)
    return np.abs(np.diff(seen, axis=0)).mean((1, 2, 3))


def flicker(made: np.ndarray, real: np.ndarray, quiet: np.ndarray) -> float | None:
    """How much more the mouth's square changes from frame to frame than the real one's where nobody speaks.

    Levels of 255; negative: it is calmer than the real one, as a smoothed picture is.

    Args:
        quiet: (N,) bool, the frames in which nobody is heard, neither in the real video nor in the generated one. Two
            in a row make a change.

    Returns:
        None where there are fewer than five changes.
    """
    both = quiet[1:] & quiet[:-1]
    if both.sum() < LEAST_QUIET:
        return None
    return float((_changes(made, MOUTH) - _changes(real, MOUTH))[both].mean())


class _Border(NamedTuple):
    """Where the mask of points crops of one size ends.

    `pixels`: (P,) places in the flat picture, of both strips; `sides`: (SECTORS, P) weights that take the mean of the
    strip inside less that of the one outside; `edge`: (S, S) bool, what lies between them; `normal`: (2, S, S), unit
    vectors x and y from the outside in.
    """

    pixels: np.ndarray
    sides: np.ndarray
    edge: np.ndarray
    normal: np.ndarray


@lru_cache(maxsize=4)
def _border(size: int) -> _Border:
    mask = crop_mask("points", size)
    edge = (mask > SOFT) & (mask < 1 - SOFT)
    reach = 2 * max(1, round(STRIP * size)) + 1
    near = cv2.dilate(edge.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    strips = [near & (mask >= 1 - SOFT), near & (mask <= SOFT)]
    rows, columns = np.nonzero(strips[0] | strips[1])
    middle = [axis.mean() for axis in np.nonzero(mask > 0.5)]
    turn = np.arctan2(rows - middle[0], columns - middle[1]) / (2 * np.pi) + 0.5
    sector = np.minimum((turn * SECTORS).astype(int), SECTORS - 1) == np.arange(SECTORS)[:, None]
    inside, outside = ((sector & strip[rows, columns]).astype(np.float32) for strip in strips)
    sides = inside / inside.sum(1, keepdims=True) - outside / outside.sum(1, keepdims=True)
    slope = np.stack([cv2.Sobel(mask, cv2.CV_32F, 1, 0), cv2.Sobel(mask, cv2.CV_32F, 0, 1)])
    normal = slope / np.maximum(np.hypot(*slope), 1e-9)
    return _Border(rows * size + columns, sides, edge, normal)


def seam_colour(made: np.ndarray, real: np.ndarray) -> float:
    """By how many levels of 255 the colours on the two sides of our mask's border are farther apart, or nearer, than in
    the real picture; 0 is the real picture.

    The border is that of `inference.generator.compositing.crop_mask`. On each side of its soft edge lies a strip of a
    thirty-second of the crop's side, cut into 16 pieces all around. Of each piece, colour and frame: the mean inside
    less that outside, less the same of the real picture, without its sign; then the mean of all. A chin that moves
    through the border counts a little. Of a system that works with another mask it says less.
    """
    border = _border(made.shape[1])
    steps = [
        np.einsum("sp,npc->nsc", border.sides, pictures.reshape(len(pictures), -1, 3)[:, border.pixels])
        for pictures in (made, real)
    ]
    return float(np.abs(steps[0] - steps[1]).mean())


def seam_gradient(made: np.ndarray, real: np.ndarray) -> float | None:
    """The mean slope of the grey picture across our mask's soft edge, without its sign, by the real picture's.

    Above 1 there is a line or noise that the real face has not; below 1 the edge is blurred. A smooth change of colour
    hardly counts, see `seam_colour`. None where the real face is flat.
    """
    top, bottom = (np.mean([_slope(picture) for picture in pictures]) for pictures in (made, real))
    return float(top / bottom) if bottom > 0 else None


def _slope(picture: np.ndarray) -> float:
    """Of one (S, S, 3), in levels of 255 a pixel."""
    border, grey = _border(len(picture)), cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    slope = np.stack([cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)]) / 8
    return float(np.abs((slope * border.normal).sum(0)[border.edge]).mean())
