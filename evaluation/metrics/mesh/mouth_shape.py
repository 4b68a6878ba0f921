"""Shape, color and sharpness of a mouth from mesh points, compared with a real mouth that speaks the same sound.

The *driver* is the video whose sound is spoken: its mouth shows how the lips should move. The *own* video is the face's
original: it shows how its lips should look. Points are (N, 206, 2) pixels in the order of
`preprocessing.faces.mesh.MESH_INDICES`, frames consecutive at 25 fps, curves (N,) in distances between the eyes'
midpoints. Undefined figures are None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.faces.crops import crop
from preprocessing.faces.mesh import (
    LEFT_CORNER,
    LEFT_EYE,
    LIPS_INNER,
    LIPS_OUTER,
    LOWER_LIP,
    RIGHT_CORNER,
    RIGHT_EYE,
    UPPER_LIP,
    lower_face,
)
from preprocessing.media.speech_activity import speech_columns
from syncnet.data import speech_share

BOX_SIDE, BOX_EYES = 96, 64  # pixels: side of the mouth box, and the distance of the eyes in it
MOUTH_ROWS, MOUTH_COLUMNS = slice(24, 72), slice(16, 80)  # of the box, where sharpness is measured
LAG = 1  # frames by which a mouth may lead or trail its driver
CLOSED_SHARE = 0.15  # of the opening's 95th percentile: below it the lips are closed
CLOSED_FLOOR = 0.02  # distances of the eyes: lips this near are closed in any video
MIN_CLOSURES = 3  # fewest closed frames of the driver for a share of them
MIN_STD = 0.005  # distances of the eyes: a curve that varies less is at rest
PALEST_PERCENTILE = 5  # of the frames
MIN_REDNESS = 1.0  # levels: paler lips carry no color information
MOVED_SCALE = 1.55  # size of the region that may change, over the hull of the points below the nose


@dataclass(frozen=True)
class MouthLook:
    """A mouth, frame by frame.

    Attributes:
        points: (N, 206, 2) pixels; interpolated where the face was not found.
        found: (N,) bool, whether the judge found the face.
        redness: (N,) see `lip_redness`; nan where the face was not found.
        sharpness: (N,) see `sharpness`; nan where the face was not found.
        flicker: (N,) see `flicker`; nan where the face was not found, and in the first and last frame.
    """

    points: np.ndarray
    found: np.ndarray
    redness: np.ndarray
    sharpness: np.ndarray
    flicker: np.ndarray

    @property
    def opening(self) -> np.ndarray:
        """(N,) distance of the inner lips' middles."""
        return gap(self.points, UPPER_LIP, LOWER_LIP)

    @property
    def width(self) -> np.ndarray:
        """(N,) distance of the mouth's corners."""
        return gap(self.points, LEFT_CORNER, RIGHT_CORNER)


# Curves --------------------------------------------------------------------------------------------------------------


def eye_distance(points: np.ndarray) -> np.ndarray:
    """(..., 206, 2) to (...,) pixels between the eyes' midpoints."""
    return np.linalg.norm(points[..., RIGHT_EYE, :].mean(-2) - points[..., LEFT_EYE, :].mean(-2), axis=-1)


def gap(points: np.ndarray, one: int, other: int) -> np.ndarray:
    """(..., 206, 2) to (...,) distance between two points, in distances of the eyes."""
    return np.linalg.norm(points[..., one, :] - points[..., other, :], axis=-1) / eye_distance(points)


def fill_gaps(points: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Points (N, P, 2), interpolated in time where `found`, (N,) bool, is false; constant beyond the ends.

    Raises:
        ValueError: no frame has a face.
    """
    if not found.any():
        raise ValueError("no frame has a face")
    times, flat = np.arange(len(found)), points.reshape(len(points), -1)
    filled = [np.interp(times, times[found], column[found]) for column in flat.T]
    return np.stack(filled, axis=1).reshape(points.shape)


def lagged_r(made: np.ndarray, driver: np.ndarray, reach: int = LAG) -> float | None:
    """Pearson's r of two curves, (N,) each, at the best lag of at most `reach` frames; 0 if the made mouth is at rest.

    None if the driver is at rest.
    """
    if np.std(driver) < MIN_STD:
        return None
    if np.std(made) < MIN_STD:
        return 0.0
    inner = driver[reach : len(driver) - reach]
    shifted = [made[reach + lag : len(made) - reach + lag] for lag in range(-reach, reach + 1)]
    found = [float(np.corrcoef(inner, each)[0, 1]) for each in shifted if np.std(each) > 0 and np.std(inner) > 0]
    return max(found, default=None)


def closed(opening: np.ndarray, floor: float = CLOSED_FLOOR) -> np.ndarray:
    """(N,) bool, whether the lips are closed: nearer than 15 % of the opening's 95th percentile, or than `floor`."""
    return opening < max(CLOSED_SHARE * np.percentile(opening, 95), floor)


def closures_kept(made: np.ndarray, driver: np.ndarray, speech: np.ndarray) -> float | None:
    """Share of the frames in speech with the driver's lips closed, in which the made lips close within one frame.

    Args:
        made, driver: openings, (N,) each; each is measured by its own 95th percentile.
        speech: (N,) bool, frames with speech.

    Returns:
        0 to 1; None with fewer than MIN_CLOSURES closed frames.
    """
    wanted = closed(driver, floor=0.0) & speech
    near = np.convolve(closed(made), np.ones(3), mode="same") > 0
    return float(near[wanted].mean()) if wanted.sum() >= MIN_CLOSURES else None


def amplitude(made: np.ndarray, driver: np.ndarray) -> float | None:
    """Standard deviation of an opening, (N,), relative to the driver's; None if that is at rest."""
    still = np.std(driver) < MIN_STD
    return None if still else float(np.std(made) / np.std(driver))


# Pictures ------------------------------------------------------------------------------------------------------------


def box_matrix(points: np.ndarray) -> np.ndarray:
    """(2, 3) matrix from a frame to the upright mouth box, for the points (206, 2) of a face."""
    scale = BOX_EYES / eye_distance(points)
    shift = BOX_SIDE / 2 - scale * points[LIPS_OUTER].mean(0)
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def mouth_box(frame: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mouth box of a frame, (BOX_SIDE, BOX_SIDE, 3) uint8 BGR, and the points (206, 2) in its pixels."""
    matrix = box_matrix(points)
    return crop(frame, matrix, BOX_SIDE), points @ matrix[:, :2].T + matrix[:, 2]


def sharpness(box: np.ndarray) -> float:
    """Variance of the Laplacian of a mouth box; noise and block artifacts count as sharpness, too."""
    edges = cv2.Laplacian(cv2.cvtColor(box, cv2.COLOR_BGR2GRAY), cv2.CV_32F)
    return float(edges[MOUTH_ROWS, MOUTH_COLUMNS].var())


def flicker(before: np.ndarray, frame: np.ndarray, after: np.ndarray, points: np.ndarray) -> float:
    """Mean absolute second difference in time of the gray mouth inside the outer lips, in levels of 255.

    What moves or brightens steadily cancels; what flashes in a single frame counts twice.

    Args:
        before, frame, after: (H, W, 3) uint8 BGR, consecutive.
        points: (206, 2) of the middle frame, which places the box for all three: jitter of the judge changes nothing.

    Returns:
        nan without lips.
    """
    matrix = box_matrix(points)
    gray = [cv2.cvtColor(crop(x, matrix, BOX_SIDE), cv2.COLOR_BGR2GRAY).astype(float) for x in (before, frame, after)]
    inside = _filled((points @ matrix[:, :2].T + matrix[:, 2])[LIPS_OUTER], gray[0].shape)
    return float(np.abs(gray[0] - 2 * gray[1] + gray[2])[inside].mean()) if inside.any() else float("nan")


def lip_redness(box: np.ndarray, points: np.ndarray) -> float:
    """Redness of the lips minus that of the skin beside them, in levels of the 8-bit a of CIE L*a*b*; nan without lips.

    Args:
        box: (S, S, 3) uint8 BGR.
        points: (206, 2) in its pixels.
    """
    mouth, inner = (_filled(points[ring], box.shape[:2]) for ring in (LIPS_OUTER, LIPS_INNER))
    lips, skin = mouth & ~inner, _grown(mouth, 13) & ~_grown(mouth, 5)
    if not (lips.any() and skin.any()):
        return float("nan")
    red = cv2.cvtColor(box, cv2.COLOR_BGR2LAB)[..., 1].astype(np.float64)
    return float(red[lips].mean() - red[skin].mean())


def _filled(ring: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Pixels (S, S) bool inside a closed ring (M, 2)."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(ring).astype(np.int32)], (1,))
    return mask > 0


def _grown(mask: np.ndarray, side: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def outside_change(made: np.ndarray, real: np.ndarray, points: np.ndarray) -> float:
    """Mean absolute difference of two frames outside the lower face, in levels of 255; nan if that fills the frame.

    Args:
        made, real: (H, W, 3) uint8 BGR, of one size.
        points: (206, 2) pixels of the real face. The hull of those below the nose, enlarged by MOVED_SCALE, may change.
    """
    lower = points[lower_face()]
    middle = lower.mean(0)
    hull = cv2.convexHull((middle + MOVED_SCALE * (lower - middle)).astype(np.float32))[:, 0]
    outside = ~_filled(hull, real.shape[:2])
    return float(cv2.absdiff(made, real)[outside].mean()) if outside.any() else float("nan")


# Comparison ----------------------------------------------------------------------------------------------------------


def compare_motion(
    made: MouthLook, driver: MouthLook, speech: np.ndarray, offset: int = 0
) -> Iterator[tuple[str, float]]:  # fmt: skip
    """Figures of a mouth against the driver's, over the frames that both have; none without such frames.

    Args:
        speech: (M,) bool, frames of the sound with speech; M may differ from both, missing frames have none.
        offset: AV offset of the driver's recording in frames: its picture at frame i matches the sound at frame
            i - offset, which the made mouth speaks then (see `syncnet.offset.SyncScore`).
    """
    first = max(-offset, 0)  # of the sound
    count = min(len(made.points), len(driver.points) - offset) - first
    if count <= 2 * LAG + 1:
        return
    ours, theirs = slice(first, first + count), slice(first + offset, first + offset + count)
    here, there = made.opening[ours], driver.opening[theirs]
    spoken = np.zeros(first + count, bool)
    spoken[: len(speech)] = speech[: first + count]
    for key, found in (
        ("mesh_opening_r", lagged_r(here, there)),
        ("mesh_width_r", lagged_r(made.width[ours], driver.width[theirs])),
        ("closures_kept", closures_kept(here, there, spoken[ours])),
        ("amplitude", amplitude(here, there)),
    ):
        if found is not None:
            yield key, found


def compare_look(made: MouthLook, own: MouthLook) -> Iterator[tuple[str, float]]:
    """Figures of a mouth's picture against that of the face's own video, whose length may differ."""
    red, sharp = np.nanmedian(own.redness), np.nanmedian(own.sharpness)
    if red >= MIN_REDNESS and np.isfinite(made.redness).any():
        yield "mesh_redness", float(np.nanpercentile(made.redness, PALEST_PERCENTILE) / red)
    if sharp > 0 and np.isfinite(made.sharpness).any():
        yield "mesh_sharpness", float(np.nanmedian(made.sharpness) / sharp)
    ours, theirs = (look.flicker[np.isfinite(look.flicker)] for look in (made, own))
    if len(ours) and len(theirs) and np.median(theirs) > 0:
        yield "mesh_flicker", float(np.median(ours) / np.median(theirs))
    yield "mesh_found", float(made.found.mean())


def motion_in_silence(silent: MouthLook, speaking: MouthLook) -> float | None:
    """Standard deviation of the opening of a face driven by silence, relative to that of the same system in speech.

    None if the speaking mouth is at rest.
    """
    return amplitude(silent.opening, speaking.opening)


def speech_frames(samples: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool, whether the greater part of a frame is speech.

    Args:
        samples: (n,) int16, 16 kHz, from frame 0 on.
    """
    if not len(samples):
        return np.zeros(count, bool)
    speech = np.pad(speech_columns(samples), (0, 4 * count))
    return np.array([speech_share(speech, k, k + 1) > 0.5 for k in range(count)], bool)
