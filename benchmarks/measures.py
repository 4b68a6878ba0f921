"""Figures of speaking faces: arrays in, numbers out.

Pictures are points crops, (N, S, S, 3) uint8 BGR, one a frame at 25 a second, all of the same clip. Places in them are
boxes in shares of the crop's side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from preprocessing.clips import CLIP_FPS
from preprocessing.windows import Region, resample
from syncnet.offset import REACH, cosine_distances, sync_score
from wav2lip.unet import AnyGenerator

Box = tuple[float, float, float, float]  # left, top, right, bottom
MASK = 53 / 128  # the first masked row of our generators
MASKED: Box = (0, MASK, 1, 1)
MOUTH: Box = (0.27, 0.33, 0.73, 0.79)  # a square around (0.5, 0.56)
LIPS: Box = (0.27, MASK, 0.73, 0.79)  # its masked part
HEAD: Box = (0.27, 0.2, 0.73, MASK)  # above it, from the eyes down: moves with the head, never with the speech

AROUND: Box = (0.2, 0.3, 0.8, 0.95)  # where the flow for the opening is looked for
UPPER: Box = (0.42, 0.46, 0.58, 0.53)  # upper lip and the skin above it
LOWER: Box = (0.4, 0.59, 0.6, 0.72)  # lower lip and the upper half of the chin

STILL = 0.1  # hundredths of the side: a curve of openings with a smaller standard deviation is of a mouth at rest
SILENCE = 10 ** (-60 / 20)  # root mean square below which an envelope does not fall
DRAWS = 2000  # of the bootstrap


def part(pictures: np.ndarray, box: Box) -> np.ndarray:
    """A box of pictures (N, S, S, ...), a view."""
    left, top, right, bottom = (round(share * pictures.shape[1]) for share in box)
    return pictures[:, top:bottom, left:right]


def difference(made: np.ndarray, real: np.ndarray) -> float:
    """Mean absolute difference of uint8 pictures, 0 to 1."""
    return float(np.abs(made.astype(np.float32) - real.astype(np.float32)).mean() / 255)


def psnr(made: np.ndarray, real: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures together, dB; of equal ones that of half a level."""
    error = np.square(made.astype(np.float64) - real.astype(np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 0.25)))


def motion(pictures: np.ndarray, box: Box) -> float:
    """Mean absolute change of a box from frame to frame, in levels of 255; needs two frames."""
    seen = part(pictures, box).astype(np.float32)
    return float(np.abs(np.diff(seen, axis=0)).mean())


def opening(pictures: np.ndarray) -> np.ndarray:
    """How far the mouth is open in each frame, against the middle frame, in hundredths of the crop's side.

    By how much farther down the lower lip and chin lie than there, less the same of the upper lip: optical flow (DIS,
    arXiv 1603.03590) from the middle frame to each. A head that moves takes both along. It compares the frames of one
    clip alone, for its zero is the middle frame's; pouting lips, whose lower one hangs, count as open a little.

    Returns:
        (N,) float64.
    """
    grey = np.stack([cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures])
    seen = np.ascontiguousarray(part(grey, AROUND))
    search, middle = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), seen[len(seen) // 2]
    down = np.zeros(grey.shape, np.float32)
    flows = [search.calc(middle, each, None) for each in seen]  # type: ignore[call-overload]  # None: no guess
    part(down, AROUND)[:] = np.stack(flows)[..., 1]
    lower, upper = (part(down, box).mean((1, 2), dtype=np.float64) for box in (LOWER, UPPER))
    return (lower - upper) * 100 / grey.shape[1]


def travel(openings: np.ndarray) -> float:
    """Mean absolute change of an opening, (N,), from frame to frame; the head's motion has no part in it."""
    return float(np.abs(np.diff(openings)).mean())


def envelope(samples: np.ndarray, frames: int, rate: int = 16000) -> np.ndarray:
    """The level of the sound at each frame: root mean square, smoothed over three frames, as its natural logarithm.

    Args:
        samples: (n,) int16; beyond them there is silence.

    Returns:
        (frames,) float64; the floor is -60 dBFS.
    """
    size = frames * rate // CLIP_FPS
    sound = np.zeros(size)
    sound[: len(samples)] = samples[:size] / 32768
    level = np.log(np.sqrt(np.square(sound.reshape(frames, -1)).mean(1)) + SILENCE)
    return np.convolve(np.pad(level, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")


def lagged_correlation(picture: np.ndarray, sound: np.ndarray, reach: int = 3) -> tuple[float, int]:
    """How a mouth's opening goes with another curve, (N,) each: Pearson's correlation at the lag of at most `reach`
    frames that makes it greatest.

    The best of seven is above zero even for curves that have nothing to do with each other: compare with a picture and
    another's sound.

    Returns:
        The correlation, 0 for a mouth at rest or a constant sound; the lag: `picture[i]` goes with `sound[i + lag]`.
    """
    found = []
    for lag in sorted(range(-reach, reach + 1), key=abs):
        here = slice(max(0, -lag), len(picture) - max(0, lag))
        x, y = picture[here], sound[here.start + lag : here.stop + lag]
        still = np.std(x) < STILL or np.std(y) < 1e-6
        found.append((0.0 if still else float(np.corrcoef(x, y)[0, 1]), lag))
    return max(found, key=lambda pair: pair[0])


def look(pictures: np.ndarray, region: Region) -> np.ndarray:
    """What an expert sees of whole points crops: (N, s, s, 3) uint8, s the region's size."""
    side = pictures.shape[1]
    scale = region.size / (region.side * side)
    left, top = ((0.5 - start * side) * scale - 0.5 for start in (region.left, region.top))
    matrix = np.array([[scale, 0, left], [0, scale, top]])
    return np.stack([resample(picture, matrix, region.size) for picture in pictures])


@dataclass(frozen=True)
class Sync:
    """What a judge says of a run of windows: `offset` in frames and `confidence` as of `SyncScore`; the mean `cosine`
    with the sound that the pictures were to fit."""

    offset: int
    confidence: float
    cosine: float


def sync(video: np.ndarray, audio: np.ndarray, counted: np.ndarray) -> Sync:
    """From the embeddings of W windows, (W, D) each, and which of them count, (W,) bool."""
    distances = cosine_distances(video, audio)
    score = sync_score(distances, counted)
    return Sync(score.offset, score.confidence, float(1 - distances[counted, REACH].mean()))


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = np.asarray, seed: int = 0
) -> tuple[float, float]:  # fmt: skip
    """The 95 % interval of a mean by drawing rows again, with replacement (percentile bootstrap, Efron 1979).

    Args:
        values: (N,) or (N, K), one row a clip; the figures of one clip stay together.
        statistic: of the K columns' means, (..., K) to (...), such as `ratio`.
    """
    chosen = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.percentile(statistic(values[chosen].mean(axis=1)), (2.5, 97.5))
    return float(low), float(high)


def ratio(means: np.ndarray) -> np.ndarray:
    """(..., 2) to the first by the second, nan where that is 0."""
    top, bottom = means[..., 0], means[..., 1]
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


@dataclass(frozen=True)
class Cost:
    """A network's parameters, 10^9 multiplications and additions for one frame, and 10^6 bytes in 16-bit floats."""

    parameters: int
    gmac: float
    megabytes: float


def cost(network: AnyGenerator) -> Cost:
    """Counts; convolutions and matrix products only, as papers count."""
    size = network.config.size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, size, size))
    stored = sum(tensor.numel() for tensor in network.state_dict().values() if tensor.is_floating_point())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops() / 2e9, 2 * stored / 1e6)
