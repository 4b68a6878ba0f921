"""What is measured of a clip, and what a trainer should not see: each measure a function, each gate a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np

from preprocessing.errors import UsageError

FULL_SCALE = 32768  # of int16 samples
SILENCE = -120.0  # dBFS: what silence counts as, instead of minus infinity
CLIPPED = 0.99  # of full scale: resampling and lossy coding move a flat top a little

# Depth of the nose's tip before the plane of eyes and mouth, in units of the distance of the pupils: 27 of 63 mm in
# adults; 135 of 315 in the generic head model that is widely used for pose from landmarks.
NOSE_DEPTH = 0.43

BLUR_SIDE = 48  # pixels of the square that sharpness is measured on: the smallest that is stored
LOWER_FACE = (0.26, 0.42, 0.74, 0.80)  # left, top, right, bottom in the network's square: nose's tip to chin
LOWER_SIDE = 16  # pixels of the small gray lower face
MIN_CORRELATION = 0.45  # correlation of a lower face with the clip's own, below which something else is there
MIN_CONTRAST = 0.4  # of the clip's own, below which it is fading
POSE_SHARE, POSE_BINS = 0.6, 8  # share of a clip that says how the face looks at a turn, and how many turns there are


# The defaults keep good recordings. Over 97 stretches of up to 6 s from 52 videos (GRID, SEAT, HDTF, VoxCeleb2, studio
# and web video, faces of 62 to 337 pixels), the least and the greatest value measured are named beside each.
@dataclass(frozen=True)
class QualityFilters:
    """The thresholds. A clip passes when every measure lies within; what was not measured passes.

    Attributes:
        min_seconds: Shortest clip.
        max_seconds: Longest clip; longer runs of a face are cut into pieces.
        min_side: Pixels of the face, the root of its box's area.
        min_sharpness: Variance of the Laplacian over that of the gray levels.
        max_yaw: Degrees the head is turned to a side, in nine of ten frames.
        max_roll: Degrees the head is tilted, in nine of ten frames.
        max_missing: Share of frames in which part of the face is beyond the picture's edge.
        max_occluded: Share of frames in which the lower face is hidden.
        min_speech: Share of the time with speech.
        min_level: Level of the speech, dBFS.
        max_clipped: Share of samples at full scale.
    """

    min_seconds: float = 1.0
    max_seconds: float = 10.0
    min_side: float = 40.0  # 62: a face half as large would be all interpolation in a crop of 96 pixels
    min_sharpness: float = 0.08  # 0.16; blurred by 2.4 pixels of a crop of 96 pixels, nine of ten lie below
    max_yaw: float = 45.0  # 49: beyond, the far half of the mouth is hidden
    max_roll: float = 45.0  # 12
    max_missing: float = 0.1  # 0.02
    max_occluded: float = 0.2  # 0.2, by heads that turn fast
    min_speech: float = 0.15  # 0.21: one sentence in nine seconds
    min_level: float = -45.0  # -31
    max_clipped: float = 0.005  # 0.0001; a recording driven 6 dB too high has 0.014

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not math.isfinite(getattr(self, limit.name)):
                raise UsageError(f"{limit.name} must be a finite number, not {getattr(self, limit.name)}")
        if not 0.2 <= self.min_seconds <= self.max_seconds / 2:
            raise UsageError(
                "min_seconds must be at least 0.2 and at most half of max_seconds, "
                f"not {self.min_seconds} with max_seconds {self.max_seconds}"
            )


@dataclass
class QualityMeasures:
    """What was measured of a clip; NaN: not measured. Units as in the functions of the same names."""

    side: float = math.nan
    sharpness: float = math.nan
    yaw: float = math.nan
    roll: float = math.nan
    missing: float = math.nan
    occluded: float = math.nan
    speech: float = math.nan
    level: float = math.nan
    clipped: float = math.nan


def failed(measures: QualityMeasures, filters: QualityFilters) -> list[str]:
    """The names of the measures that are beyond their limits, in the order of the fields; NaN is within."""
    names = []
    for name, value in vars(measures).items():
        low, high = getattr(filters, f"min_{name}", -math.inf), getattr(filters, f"max_{name}", math.inf)
        if value < low or value > high:
            names.append(name)
    return names


def side(boxes: np.ndarray) -> float:
    """Median side, the root of the area, of the boxes (N, 4) in their pixels."""
    sizes = np.asarray(boxes[:, 2:] - boxes[:, :2], np.float64)
    return float(np.median(np.sqrt(sizes.prod(axis=1))))


def yaws(points: np.ndarray) -> np.ndarray:
    """How far faces are turned to a side, by their five points (N, 5, 2): (N,) degrees, positive to picture's right.

    Take eyes at (-e, 0, 0) and (e, 0, 0), the nose's tip at (0, n, d) and the mouth's corners at (-m, h, 0) and
    (m, h, 0), z towards the camera. Turned by yaw about the y axis and seen from afar, x becomes
    x cos(yaw) + z sin(yaw): the eyes are 2 e cos(yaw) apart, and the nose stands d sin(yaw) beside the line from
    the middle of the eyes to the middle of the mouth. Their ratio is d / (2 e) tan(yaw), whatever the face's size,
    roll and pitch; d / (2 e) is NOSE_DEPTH.
    """
    right, left, nose = (points[:, i].astype(np.float64) for i in range(3))
    eyes, mouth = (right + left) / 2, points[:, 3:5].astype(np.float64).mean(axis=1)
    down, across = mouth - eyes, nose - eyes
    beside = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) / np.maximum(np.hypot(*down.T), 1e-6)
    return np.degrees(np.arctan2(beside, NOSE_DEPTH * np.hypot(*(left - right).T)))


def rolls(points: np.ndarray) -> np.ndarray:
    """How far faces are tilted in the picture, by the line of the eyes of (N, 5, 2): (N,) degrees, clockwise."""
    across = (points[:, 1] - points[:, 0]).astype(np.float64)
    return np.degrees(np.arctan2(across[:, 1], across[:, 0]))


def percentile_90(angles: np.ndarray) -> float:
    """The size that nine of ten of the angles stay below."""
    return float(np.percentile(np.abs(angles), 90))


def missing(points: np.ndarray, size: tuple[int, int]) -> float:
    """Share of frames, 0..1, in which a part of the face is beyond the picture's edge, by the points (N, 5, 2).

    A track holds a face in every frame of a run (the tracker bridges short gaps and ends the run at long ones), so
    that a face can be missing only there: an eye, the mouth, or the chin, which is as far below the mouth as the
    mouth is below the nose.
    """
    nose, mouth = points[:, 2], points[:, 3:5].mean(axis=1)
    chin = mouth + (mouth - nose)
    parts = np.concatenate([points, chin[:, None]], axis=1)
    inside = ((parts >= -0.5) & (parts <= np.array(size) - 0.5)).all(axis=(1, 2))
    return float(1 - inside.mean())


def speech(flags: np.ndarray) -> float:
    """Share, 0..1, of the mel columns (T,) with speech."""
    return float(np.mean(flags))


def level(samples: np.ndarray, flags: np.ndarray, hop: int) -> float:
    """Root mean square of int16 samples (n,) where the flags (T,), one for `hop` samples, say speech: dBFS.

    Without any speech, that of all samples.
    """
    spoken = np.repeat(flags, hop)[: len(samples)]
    chosen = samples[: len(spoken)][spoken] if spoken.any() else samples
    power = float(np.mean(np.square(chosen, dtype=np.float64))) / FULL_SCALE**2
    return max(10 * math.log10(power), SILENCE) if power else SILENCE


def clipped(samples: np.ndarray) -> float:
    """Share, 0..1, of int16 samples (n,) at full scale."""
    return float(np.mean(np.abs(samples.astype(np.int32)) >= CLIPPED * FULL_SCALE))


def sharpness(square: np.ndarray) -> float:
    """Variance of the Laplacian of the face, from the network's square (S, S, 3) uint8, without its margin.

    The square is brought to BLUR_SIDE pixels first, so that the value does not depend on S. Source: Pech-Pacheco et
    al., "Diatom autofocusing in brightfield microscopy: a comparative study" (2000). It is divided by the variance
    of the gray levels, so that it does not depend on light and contrast either.
    """
    gray = _gray(square, BLUR_SIDE).astype(np.float32)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var() / max(float(gray.var()), 1.0))


def lower_face(square: np.ndarray) -> np.ndarray:
    """A small gray picture of mouth and chin, from the network's square (S, S, 3) without its margin.

    Returns:
        (LOWER_SIDE, LOWER_SIDE) uint8.
    """
    x1, y1, x2, y2 = (round(fraction * len(square)) for fraction in LOWER_FACE)
    return _gray(square[y1:y2, x1:x2], LOWER_SIDE)


def outlier_frames(lower_faces: np.ndarray, yaws: np.ndarray) -> np.ndarray:
    """In which of a clip's frames the lower face (N, H, W) does not look like the clip's own: (N,) bool.

    The own look is the median over the frames in which the head is turned alike, by `yaws` (N,), each picture's
    contrast made one. A picture is outlier_frames when it hardly correlates with that, whatever its light, or has lost most
    of its contrast, as in a fade. What hides the mouth most of the time is taken for the face.
    """
    rows = lower_faces.reshape(len(lower_faces), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    contrast = np.linalg.norm(rows, axis=1)
    rows /= np.maximum(contrast, 1e-6)[:, None]
    order, width = np.argsort(yaws, kind="stable"), max(1, round(POSE_SHARE * len(rows)))
    correlation = np.empty(len(rows))
    for block in np.array_split(np.arange(len(rows)), min(POSE_BINS, len(rows))):
        start = int(np.clip((block[0] + block[-1] - width) // 2, 0, len(rows) - width))
        own = np.median(rows[order[start : start + width]], axis=0)
        correlation[order[block]] = rows[order[block]] @ (own / max(float(np.linalg.norm(own)), 1e-6))
    return (correlation < MIN_CORRELATION) | (contrast < MIN_CONTRAST * np.median(contrast))


def _gray(picture: np.ndarray, size: int) -> np.ndarray:
    return cv2.cvtColor(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
