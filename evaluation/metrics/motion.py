"""Mouth motion: on its own, compared with the real mouth, and correlated with the audio.

Frames are points crops, (N, S, S, 3) uint8 BGR, consecutive at 25 fps. Openings are curves from `opening`, (N,), in
percent of the crop's side. A mouth is at rest if the standard deviation of its curve is below REST_STD. Ratios to the
motion of a resting mouth and correlations with it are undefined and None, unless the function says otherwise.
"""

from __future__ import annotations

import cv2
import numpy as np

from evaluation.metrics.image_quality import Box, crop_box
from preprocessing.dataset.clip_header import CLIP_FPS

FLOW_BOX: Box = (0.2, 0.3, 0.8, 0.95)  # region where optical flow is computed
UPPER_LIP: Box = (0.42, 0.46, 0.58, 0.53)  # upper lip and the skin above it
LOWER_LIP: Box = (0.4, 0.59, 0.6, 0.72)  # lower lip and the upper half of the chin

REST_STD = 0.1  # percent of the side: below this standard deviation a mouth is at rest
MOTION_THRESHOLD = 0.7  # percent of the side, see `moving_share`
HALF_WINDOW = 2  # frames on either side that `moving_share` looks at
ENVELOPE_FLOOR = 10 ** (-60 / 20)  # lower limit of the RMS in an envelope


def opening(frames: np.ndarray) -> np.ndarray:
    """Mouth opening in each frame relative to the middle frame, in percent of the crop's side.

    Downward shift of the lower lip and chin minus that of the upper lip, by optical flow (DIS, arXiv 1603.03590) from
    the middle frame; head motion shifts both and cancels out. Values are comparable within one clip only, since zero is
    the middle frame. Pouting lips, with the lower lip hanging, count as slightly open.

    Returns:
        (N,) float64.
    """
    gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames])
    view = np.ascontiguousarray(crop_box(gray, FLOW_BOX))
    flow, middle = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), view[len(view) // 2]
    down = np.zeros(gray.shape, np.float32)
    flows = [flow.calc(middle, each, None) for each in view]  # type: ignore[call-overload]  # None: no initial flow
    crop_box(down, FLOW_BOX)[:] = np.stack(flows)[..., 1]
    lower, upper = (crop_box(down, box).mean((1, 2), dtype=np.float64) for box in (LOWER_LIP, UPPER_LIP))
    return (lower - upper) * 100 / gray.shape[1]


def mean_speed(openings: np.ndarray) -> float:
    """Mean absolute frame-to-frame change of an opening, (N,); independent of head motion."""
    return float(np.abs(np.diff(openings)).mean())


def at_rest(openings: np.ndarray) -> bool:
    """Whether a mouth, (N,), moves no more than the flow noise of a resting mouth."""
    return bool(np.std(openings) < REST_STD)


def articulation(openings: np.ndarray, real: np.ndarray) -> float | None:
    """Standard deviation of the mouth opening relative to the real mouth's.

    0 for a mouth at rest; None if the real mouth is at rest.
    """
    return None if at_rest(real) else float(np.std(openings) / np.std(real))


def moving_share(openings: np.ndarray) -> float:
    """Share of frames, 0 to 1, in which the mouth moves.

    A frame counts if the opening varies by more than MOTION_THRESHOLD, 0.7 % of the side, within two frames on either
    side. In 107 clips of 62 people, real mouths moved in 90 % of the frames amid speech, and in 24 % of those at least
    a quarter of a second away from any speech: some people smile, breathe or swallow. The median variation was 2.4 in
    speech and 0.2 in silence; a threshold of 0.5 would give 94 % and 31 %, 1.0 would give 82 % and 18 %.
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(openings, HALF_WINDOW, mode="edge"), 2 * HALF_WINDOW + 1)
    return float((np.ptp(windows, axis=1) > MOTION_THRESHOLD).mean())


def leak(share: float, real_share: float) -> float | None:
    """Motion in silence relative to the motion of the real mouth in speech, both from `moving_share`.

    The ratio corrects for people who move their mouths a lot. May exceed 1; None if the real mouth does not move.
    """
    return share / real_share if real_share > 0 else None


def response(own: np.ndarray, other: np.ndarray) -> float:
    """1 - r between the openings, (N,) each, of a face driven by its own audio and by another audio.

    0 means that the mouth ignores the audio, 1 that the motions are unrelated, 2 that they are opposite. 0 if both are
    at rest, 1 if only one is.
    """
    resting = at_rest(own) + at_rest(other)
    return resting % 2 if resting else 1 - _correlation(own, other)


def agreement(one: np.ndarray, two: np.ndarray) -> float | None:
    """Pearson's r between two openings, (N,) each, -1 to 1; None if either is at rest."""
    return None if at_rest(one) or at_rest(two) else _correlation(one, two)


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.corrcoef(one, two)[0, 1])


def envelope(samples: np.ndarray, frames: int, rate: int = 16000) -> np.ndarray:
    """Audio level per frame: natural logarithm of the RMS, smoothed over three frames.

    Args:
        samples: (n,) int16, padded with silence.

    Returns:
        (frames,) float64; the floor is -60 dBFS.
    """
    size = frames * rate // CLIP_FPS
    audio = np.zeros(size)
    audio[: len(samples)] = samples[:size] / 32768
    level = np.log(np.sqrt(np.square(audio.reshape(frames, -1)).mean(1)) + ENVELOPE_FLOOR)
    return np.convolve(np.pad(level, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")


def lagged_correlation(openings: np.ndarray, other: np.ndarray, reach: int = 3) -> tuple[float, int]:
    """Maximum Pearson correlation of a mouth opening with another curve, (N,) each, over lags up to `reach` frames.

    The best of seven lags is above zero even for unrelated curves: compare with an unsynced video.

    Returns:
        The correlation, 0 for a mouth at rest or a constant other curve; the lag: `openings[i]` matches
        `other[i + lag]`.
    """
    found = []
    for lag in sorted(range(-reach, reach + 1), key=abs):
        here = slice(max(0, -lag), len(openings) - max(0, lag))
        x, y = openings[here], other[here.start + lag : here.stop + lag]
        still = at_rest(x) or np.std(y) < 1e-6
        found.append((0.0 if still else _correlation(x, y), lag))
    return max(found, key=lambda pair: pair[0])
