"""Image quality of generated faces, compared with the real video.

Frames are points crops, (N, S, S, 3) uint8 BGR, at 25 fps; `made` and `real` are the same N frames. Boxes are given in
fractions of the crop's side.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch

from inference.generator.compositing import crop_mask

Box = tuple[float, float, float, float]  # left, top, right, bottom
MASK_TOP = 53 / 128  # first masked row of our generators
MASKED: Box = (0, MASK_TOP, 1, 1)
MOUTH: Box = (0.27, 0.33, 0.73, 0.79)  # a square around (0.5, 0.56)
LIPS: Box = (0.27, MASK_TOP, 0.73, 0.79)  # masked part of MOUTH
HEAD: Box = (0.27, 0.2, 0.73, MASK_TOP)  # from the eyes to the mask: moves with the head, not with speech

LIP_REGION: Box = (0.32, 0.5, 0.68, 0.74)  # lips and surrounding skin, including their range of motion

SECTORS = 16  # segments of the mask border, by angle around its center
STRIP = 1 / 32  # width of the strips on either side of the border, fraction of the crop's side
PALEST_PERCENTILE = 5  # of the frames
MIN_REDNESS = 0.5  # levels: below this the lips of a face carry no color information
EDGE_ALPHA = 0.02  # the border is where the mask lies between this and 1 minus this
MIN_QUIET = 5  # fewest frame-to-frame changes for measuring flicker
BATCH = 32  # frames compared at once


def crop_box(frames: np.ndarray, box: Box) -> np.ndarray:
    """A box of frames (N, S, S, ...), as a view."""
    left, top, right, bottom = (round(share * frames.shape[1]) for share in box)
    return frames[:, top:bottom, left:right]


def l1_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Mean absolute difference of uint8 images or crops, 0 to 1."""
    return float(np.abs(made.astype(np.float32) - real.astype(np.float32)).mean() / 255)


def psnr(made: np.ndarray, real: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all uint8 images or crops; the MSE is clipped to 0.25, half a level."""
    error = np.square(made.astype(np.float64) - real.astype(np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 0.25)))


def ssim(made: np.ndarray, real: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of the mouth square in points crops, mean over frames, -1 to 1.

    As in torchmetrics: Gaussian window with a sigma of 1.5 pixels, each channel separately, reflection padding.

    Raises:
        ModuleNotFoundError: torchmetrics is not installed.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    total = 0.0
    for first in range(0, len(made), BATCH):
        mouths = (crop_box(frames[first : first + BATCH], MOUTH) for frames in (made, real))
        one, two = (torch.from_numpy(mouth.transpose(0, 3, 1, 2).astype(np.float32)) for mouth in mouths)
        total += float(structural_similarity_index_measure(one, two, data_range=255.0, reduction="sum"))  # type: ignore[arg-type]
    return total / len(made)


def sharpness(made: np.ndarray, real: np.ndarray) -> float | None:
    """Variance of the Laplacian on the mouth square of points crops, mean over frames, relative to the real video.

    1 is as sharp as the real video; noise and block artifacts count as sharpness too. None if the real mouth is flat.
    """
    top, bottom = (np.mean([_laplacian_variance(frame) for frame in frames]) for frames in (made, real))
    return float(top / bottom) if bottom > 0 else None


def _laplacian_variance(frame: np.ndarray) -> float:
    """For one (S, S, 3); the whole frame is filtered to avoid effects at the edge of the mouth square."""
    edges = cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.CV_32F)
    return float(crop_box(edges[None], MOUTH).var())


def lip_redness(made: np.ndarray, real: np.ndarray) -> float | None:
    """Contrast in redness between lips and skin in the palest frames, relative to the real video.

    Per frame, the standard deviation of the green-red axis (a of CIE L*a*b*) around the mouth; over the frames, its 5th
    percentile, so that one frame in twenty without lips is noticed. 1 matches the real video; near 0 the lips have
    vanished into the skin, which barely changes any mean. Teeth and tongue contribute a little. None if the real lips
    have no color.

    Args:
        made, real: points crops (N, S, S, 3) uint8 BGR; lengths may differ.
    """
    top, bottom = (np.percentile([_redness(frame) for frame in frames], PALEST_PERCENTILE) for frames in (made, real))
    return float(top / bottom) if bottom > MIN_REDNESS else None


def _redness(frame: np.ndarray) -> float:
    """For one (S, S, 3), in levels of 8-bit a."""
    region = np.ascontiguousarray(crop_box(frame[None], LIP_REGION)[0])
    return float(cv2.cvtColor(region, cv2.COLOR_BGR2LAB)[..., 1].std())


def temporal_change(frames: np.ndarray, box: Box) -> float:
    """Mean absolute frame-to-frame change within a box, in levels of 255; requires two frames."""
    return float(_frame_changes(frames, box).mean())


def _frame_changes(frames: np.ndarray, box: Box) -> np.ndarray:
    """(N - 1,), change of each frame from the previous one."""
    region = crop_box(frames, box).astype(np.int16)
    return np.abs(np.diff(region, axis=0)).mean((1, 2, 3))


def flicker(made: np.ndarray, real: np.ndarray, quiet: np.ndarray) -> float | None:
    """Frame-to-frame change of the mouth square beyond that of the real video, where nobody speaks.

    In levels of 255; negative if calmer than the real video, as smoothed frames are.

    Args:
        quiet: (N,) bool, frames without speech in both the real and the generated video. Two consecutive ones count as
            one change.

    Returns:
        None if there are fewer than five changes.
    """
    both = quiet[1:] & quiet[:-1]
    if both.sum() < MIN_QUIET:
        return None
    return float((_frame_changes(made, MOUTH) - _frame_changes(real, MOUTH))[both].mean())


class _Border(NamedTuple):
    """The border of the mask in points crops of one size.

    `pixels`: (P,) indices into the flattened frame, of both strips; `sides`: (SECTORS, P) weights that compute the mean
    of the inner strip minus that of the outer one; `edge`: (S, S) bool, the soft edge between them; `normal`: (2, S, S)
    unit vectors, x and y, pointing inward.
    """

    pixels: np.ndarray
    sides: np.ndarray
    edge: np.ndarray
    normal: np.ndarray


@lru_cache(maxsize=4)
def _border(size: int) -> _Border:
    mask = crop_mask("points", size)
    edge = (mask > EDGE_ALPHA) & (mask < 1 - EDGE_ALPHA)
    reach = 2 * max(1, round(STRIP * size)) + 1
    near = cv2.dilate(edge.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    strips = [near & (mask >= 1 - EDGE_ALPHA), near & (mask <= EDGE_ALPHA)]
    rows, columns = np.nonzero(strips[0] | strips[1])
    center = [axis.mean() for axis in np.nonzero(mask > 0.5)]
    turn = np.arctan2(rows - center[0], columns - center[1]) / (2 * np.pi) + 0.5
    sector = np.minimum((turn * SECTORS).astype(int), SECTORS - 1) == np.arange(SECTORS)[:, None]
    inside, outside = ((sector & strip[rows, columns]).astype(np.float32) for strip in strips)
    sides = inside / inside.sum(1, keepdims=True) - outside / outside.sum(1, keepdims=True)
    slope = np.stack([cv2.Sobel(mask, cv2.CV_32F, 1, 0), cv2.Sobel(mask, cv2.CV_32F, 0, 1)])
    normal = slope / np.maximum(np.hypot(*slope), 1e-9)
    return _Border(rows * size + columns, sides, edge, normal)


def seam_color(made: np.ndarray, real: np.ndarray) -> float:
    """Deviation from the real video of the color step across our mask's border, in levels of 255; 0 matches it.

    The border is that of `inference.generator.compositing.crop_mask`. A strip on each side of its soft edge, 1/32 of
    the crop's side wide, is divided into 16 segments. For each segment, channel and frame: the mean inside minus the
    mean outside, minus the same in the real frame, as an absolute value; then the mean of all. A chin that moves across
    the border contributes a little. For a system with another mask it says less.
    """
    border = _border(made.shape[1])
    steps = [
        np.einsum("sp,npc->nsc", border.sides, frames.reshape(len(frames), -1, 3)[:, border.pixels])
        for frames in (made, real)
    ]
    return float(np.abs(steps[0] - steps[1]).mean())


def seam_gradient(made: np.ndarray, real: np.ndarray) -> float | None:
    """Mean absolute gradient of the gray frame across our mask's soft edge, relative to the real video.

    Above 1 there is a line or noise that the real face does not have; below 1 the edge is blurred. A smooth change of
    color barely counts, see `seam_color`. None if the real face is flat.
    """
    top, bottom = (np.mean([_border_gradient(frame) for frame in frames]) for frames in (made, real))
    return float(top / bottom) if bottom > 0 else None


def _border_gradient(frame: np.ndarray) -> float:
    """For one (S, S, 3), in levels of 255 per pixel."""
    border, gray = _border(len(frame)), cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    gradient = np.stack([cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)]) / 8
    return float(np.abs((gradient * border.normal).sum(0)[border.edge]).mean())
