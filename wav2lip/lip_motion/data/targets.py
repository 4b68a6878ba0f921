"""Training targets: mesh points of a video → displacements from the person's rest shape."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing.errors import UsageError, display_path
from preprocessing.faces.mesh import MESH_INDICES, HeadPose, lower_face, rest_shape

SMOOTHING = (0.125, 0.75, 0.125)  # temporal kernel against label jitter
MAX_HEAD_MOTION = 14.0  # units; larger head motion between frames is a cut
MAX_LOG_GROWTH = 0.12  # larger change of the log head size between frames is a cut
MIN_FRAMES = 5


@dataclass(frozen=True)
class MeshTrack:
    """The mesh points of one face throughout a video.

    Attributes:
        points: (T, 206, 3) pixels; zeros where no face was found.
        found: (T,) bool.
        times: (T,) seconds.
    """

    points: np.ndarray
    found: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Displacements:
    """Displacement of the lower face from rest in each frame, with the head pose removed.

    Attributes:
        values: (T, P, 3) float32 units, rows `lower_face()`.
        valid: (T,) bool; False without a face and next to cuts.
        times: (T,) seconds.
        rest: (206, 3) float32, the person's rest shape.
    """

    values: np.ndarray
    valid: np.ndarray
    times: np.ndarray
    rest: np.ndarray


def read_mesh(path: Path) -> MeshTrack:
    """Reads a mesh label file.

    The .npz file contains `steps`: differences between frames in 1/8 pixel, int16, (3, 206, T), all low bytes before
    all high bytes, LZMA-compressed; `frames`, the number T; `found` and `times`.

    Raises:
        UsageError: the file is missing, damaged or not a mesh label file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            raw = np.frombuffer(lzma.decompress(file["steps"].tobytes()), np.uint8)
            steps = raw.reshape(2, -1).T.copy().view("<i2").reshape(3, len(MESH_INDICES), int(file["frames"]))
            points = np.cumsum(steps.transpose(2, 1, 0).astype(np.int32), axis=0) / 8.0
            return MeshTrack(points, file["found"].astype(bool), file["times"].astype(np.float64))
    except (OSError, KeyError, ValueError, lzma.LZMAError) as error:
        raise UsageError(f"{display_path(path)} is not a mesh label file ({error})") from error


def displacements(track: MeshTrack) -> Displacements:
    """Removes the head pose, subtracts the rest shape (the median of the least open frames) and smooths.

    Raises:
        UsageError: fewer than five frames are usable.
    """
    known = track.found
    if known.sum() < MIN_FRAMES:
        raise UsageError(f"a face was found in {known.sum()} frames, at least {MIN_FRAMES} are needed")
    pose = HeadPose.of(track.points[known])
    shapes = np.zeros_like(track.points)
    shapes[known] = pose.unpose(track.points[known])
    valid = known.copy()
    valid[known] = ~near_cuts(pose, np.flatnonzero(known))
    if valid.sum() < MIN_FRAMES:
        raise UsageError(f"{valid.sum()} frames are away from cuts, at least {MIN_FRAMES} are needed")
    rest = rest_shape(shapes[valid])
    rows = lower_face()
    values = smooth(shapes[:, rows] - rest[rows], valid)
    return Displacements(values.astype(np.float32), valid, track.times, rest.astype(np.float32))


def near_cuts(pose: HeadPose, frames: np.ndarray) -> np.ndarray:
    """(T,) bool: whether a frame is next to a jump of the head or a gap in `frames`, (T,) frame numbers."""
    moved = np.linalg.norm(np.diff(pose.translation[:, :2], axis=0), axis=1) / pose.scale[1:]
    leaps = (moved > MAX_HEAD_MOTION) | (np.abs(np.diff(np.log(pose.scale))) > MAX_LOG_GROWTH) | (np.diff(frames) > 1)
    return np.append(leaps, False) | np.insert(leaps, 0, False)


def smooth(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Smooths (T, ...) values over adjacent frames; invalid neighbors are replaced by the frame itself."""
    side, middle, _ = SMOOTHING
    before, after = np.roll(values, 1, axis=0), np.roll(values, -1, axis=0)
    spread = (-1,) + (1,) * (values.ndim - 1)
    has_before = (np.roll(valid, 1) & (np.arange(len(valid)) > 0)).reshape(spread)
    has_after = (np.roll(valid, -1) & (np.arange(len(valid)) < len(valid) - 1)).reshape(spread)
    return middle * values + side * (np.where(has_before, before, values) + np.where(has_after, after, values))


def at_times(
    values: np.ndarray, valid: np.ndarray, times: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolates values linearly in time.

    Args:
        values: (T, ...), T >= 2.
        valid: (T,) bool.
        times: (T,) seconds, increasing.
        wanted: (N,) seconds.

    Returns:
        (N, ...) values, and (N,) bool: whether both neighbors are valid and the time is within 0.03 s of the video.
    """
    left = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 2)
    share = np.clip((wanted - times[left]) / np.maximum(times[left + 1] - times[left], 1e-6), 0, 1)
    inside = (wanted >= times[0] - 0.03) & (wanted <= times[-1] + 0.03)
    known = (valid[left] | (share == 1)) & (valid[left + 1] | (share == 0)) & inside
    share = share.reshape((-1,) + (1,) * (values.ndim - 1))
    return values[left] * (1 - share) + values[left + 1] * share, known
