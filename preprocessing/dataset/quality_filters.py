"""Quality measures of clips, each a function, and quality filters, each a threshold on a measure."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np

from preprocessing.errors import UsageError

FULL_SCALE = 32768  # of int16 samples
SILENCE = -120.0  # dBFS: the level of digital silence, instead of minus infinity
CLIPPED = 0.99  # of full scale: resampling and lossy coding shift clipped peaks slightly

# Depth of the nose tip in front of the plane of eyes and mouth, in units of the interpupillary distance: 27 of 63 mm in
# adults; 135 of 315 in the generic head model widely used for pose estimation from landmarks.
NOSE_DEPTH = 0.43

BLUR_SIDE = 48  # pixels: the square on which sharpness is measured, the smallest one stored
LOWER_FACE = (0.26, 0.42, 0.74, 0.80)  # left, top, right, bottom in the network input square: nose tip to chin
LOWER_SIDE = 16  # pixels: side of the grayscale lower-face thumbnail
MIN_CORRELATION = 0.45  # minimum correlation of a lower face with the clip's median
MIN_CONTRAST = 0.4  # relative to the clip's median contrast; less means a fade
POSE_SHARE, POSE_BINS = 0.6, 8  # share of the frames used for the median at each head yaw, number of yaw bins


# The defaults keep good recordings. The comments give the extreme value measured over 97 segments of up to 6 s from 52
# videos (GRID, SEAT, HDTF, VoxCeleb2, studio and web video, faces of 62 to 337 pixels).
@dataclass(frozen=True)
class QualityFilters:
    """Thresholds. A clip passes if every measure is within its limits; measures that were not taken pass.

    Attributes:
        min_seconds: Minimum clip duration in seconds.
        max_seconds: Maximum clip duration in seconds; longer face runs are cut.
        min_side: Minimum face size in pixels, the square root of the box area.
        min_sharpness: Minimum variance of the Laplacian, divided by the variance of the gray levels.
        max_yaw: Maximum head yaw in degrees, 90th percentile.
        max_roll: Maximum head roll in degrees, 90th percentile.
        max_missing: Maximum share of frames with part of the face outside the frame.
        max_occluded: Maximum share of frames with an occluded lower face.
        min_speech: Minimum share of speech.
        min_level: Minimum speech level in dBFS.
        max_clipped: Maximum share of samples at full scale.
    """

    min_seconds: float = 1.0
    max_seconds: float = 10.0
    min_side: float = 40.0  # 62; a 96-pixel crop of a face half as large would be mostly interpolation
    min_sharpness: float = 0.08  # 0.16; nine of ten clips fall below after a blur of 2.4 pixels in a 96-pixel crop
    max_yaw: float = 45.0  # 49; beyond that, the far half of the mouth is hidden
    max_roll: float = 45.0  # 12
    max_missing: float = 0.1  # 0.02
    max_occluded: float = 0.2  # 0.2, for fast head turns
    min_speech: float = 0.15  # 0.21, one sentence in nine seconds
    min_level: float = -45.0  # -31
    max_clipped: float = 0.005  # 0.0001; a recording overdriven by 6 dB has 0.014

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
    """Measures of a clip, NaN if not taken. For units, see the functions of the same names."""

    side: float = math.nan
    sharpness: float = math.nan
    yaw: float = math.nan
    roll: float = math.nan
    missing: float = math.nan
    occluded: float = math.nan
    speech: float = math.nan
    level: float = math.nan
    clipped: float = math.nan


def failed_filters(measures: QualityMeasures, filters: QualityFilters) -> list[str]:
    """Names of the measures outside their limits, in field order; NaN passes."""
    names = []
    for name, value in vars(measures).items():
        low, high = getattr(filters, f"min_{name}", -math.inf), getattr(filters, f"max_{name}", math.inf)
        if value < low or value > high:
            names.append(name)
    return names


def side(boxes: np.ndarray) -> float:
    """Median side of the boxes (N, 4), the square root of the area, in pixels."""
    sizes = np.asarray(boxes[:, 2:] - boxes[:, :2], np.float64)
    return float(np.median(np.sqrt(sizes.prod(axis=1))))


def yaws(points: np.ndarray) -> np.ndarray:
    """Head yaw from five landmarks (N, 5, 2): (N,) degrees, positive toward the right of the image.

    Let the eyes be at (-e, 0, 0) and (e, 0, 0), the nose tip at (0, n, d) and the mouth corners at (-m, h, 0) and
    (m, h, 0), with z toward the camera. Rotating by yaw about the y axis under orthographic projection maps x to
    x cos(yaw) + z sin(yaw): the eyes are 2 e cos(yaw) apart, and the nose is d sin(yaw) away from the line between
    the midpoints of eyes and mouth. The ratio is d / (2 e) tan(yaw), independent of face size, roll and pitch;
    d / (2 e) is NOSE_DEPTH.
    """
    right, left, nose = (points[:, i].astype(np.float64) for i in range(3))
    eyes, mouth = (right + left) / 2, points[:, 3:5].astype(np.float64).mean(axis=1)
    down, across = mouth - eyes, nose - eyes
    distance = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) / np.maximum(np.hypot(*down.T), 1e-6)
    return np.degrees(np.arctan2(distance, NOSE_DEPTH * np.hypot(*(left - right).T)))


def rolls(points: np.ndarray) -> np.ndarray:
    """In-plane head roll from the eye line of (N, 5, 2) landmarks: (N,) degrees, clockwise."""
    across = (points[:, 1] - points[:, 0]).astype(np.float64)
    return np.degrees(np.arctan2(across[:, 1], across[:, 0]))


def percentile_90(angles: np.ndarray) -> float:
    """90th percentile of the absolute angles."""
    return float(np.percentile(np.abs(angles), 90))


def missing(points: np.ndarray, size: tuple[int, int]) -> float:
    """Share of frames, 0..1, in which part of the face lies outside the frame, from landmarks (N, 5, 2).

    A track has a face in every frame of a run (the tracker bridges short gaps and ends the run at long ones), so a face
    can only be missing at the frame edge: an eye, the nose, the mouth, or the chin, taken to be as far below the mouth
    as the mouth is below the nose.
    """
    nose, mouth = points[:, 2], points[:, 3:5].mean(axis=1)
    chin = mouth + (mouth - nose)
    parts = np.concatenate([points, chin[:, None]], axis=1)
    inside = ((parts >= -0.5) & (parts <= np.array(size) - 0.5)).all(axis=(1, 2))
    return float(1 - inside.mean())


def speech(flags: np.ndarray) -> float:
    """Share, 0..1, of mel columns (T,) with speech."""
    return float(np.mean(flags))


def level(samples: np.ndarray, flags: np.ndarray, hop: int) -> float:
    """RMS level in dBFS of the int16 samples (n,) flagged as speech by `flags` (T,), one flag per `hop` samples.

    Without any speech, the level of all samples.
    """
    spoken = np.repeat(flags, hop)[: len(samples)]
    chosen = samples[: len(spoken)][spoken] if spoken.any() else samples
    power = float(np.mean(np.square(chosen, dtype=np.float64))) / FULL_SCALE**2
    return max(10 * math.log10(power), SILENCE) if power else SILENCE


def clipped(samples: np.ndarray) -> float:
    """Share, 0..1, of int16 samples (n,) at full scale."""
    return float(np.mean(np.abs(samples.astype(np.int32)) >= CLIPPED * FULL_SCALE))


def sharpness(square: np.ndarray) -> float:
    """Normalized variance of the Laplacian of the network input square (S, S, 3) uint8, without its margin.

    The square is resized to BLUR_SIDE pixels first, so the value does not depend on S. Source: Pech-Pacheco et al.,
    "Diatom autofocusing in brightfield microscopy: a comparative study" (2000). Dividing by the variance of the gray
    levels makes it independent of lighting and contrast.
    """
    gray = _gray(square, BLUR_SIDE).astype(np.float32)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var() / max(float(gray.var()), 1.0))


def lower_face(square: np.ndarray) -> np.ndarray:
    """Grayscale thumbnail of mouth and chin from the network input square (S, S, 3), without its margin.

    Returns:
        (LOWER_SIDE, LOWER_SIDE) uint8.
    """
    x1, y1, x2, y2 = (round(fraction * len(square)) for fraction in LOWER_FACE)
    return _gray(square[y1:y2, x1:x2], LOWER_SIDE)


def outlier_frames(lower_faces: np.ndarray, yaws: np.ndarray) -> np.ndarray:
    """Flags the frames whose lower face (N, H, W) differs from the rest of the clip: (N,) bool.

    The reference is the median over the frames with a similar head yaw, from `yaws` (N,), after normalizing the
    contrast of each. A frame is an outlier if its correlation with the reference is low, regardless of lighting, or if
    it has lost most of its contrast, as in a fade. An object that hides the mouth most of the time is taken for the
    face.
    """
    rows = lower_faces.reshape(len(lower_faces), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    contrast = np.linalg.norm(rows, axis=1)
    rows /= np.maximum(contrast, 1e-6)[:, None]
    order, width = np.argsort(yaws, kind="stable"), max(1, round(POSE_SHARE * len(rows)))
    correlation = np.empty(len(rows))
    for block in np.array_split(np.arange(len(rows)), min(POSE_BINS, len(rows))):
        start = int(np.clip((block[0] + block[-1] - width) // 2, 0, len(rows) - width))
        reference = np.median(rows[order[start : start + width]], axis=0)
        correlation[order[block]] = rows[order[block]] @ (reference / max(float(np.linalg.norm(reference)), 1e-6))
    return (correlation < MIN_CORRELATION) | (contrast < MIN_CONTRAST * np.median(contrast))


def _gray(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.cvtColor(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
