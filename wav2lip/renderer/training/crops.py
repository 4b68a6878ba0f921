"""Selects frames of labeled videos for the painter and crops their mouths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.training.labels import MeshLabels, load_labels
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, canonical_face, opening
from preprocessing.media.color_conversion import to_bgr
from preprocessing.media.video_reader import decode, open_media
from wav2lip.renderer.inner_mouth import head_angles, mouth_plane
from wav2lip.renderer.painter_inputs import DENSITY, from_image, sample_crop

SIDE = 128  # pixels of a stored crop: the warp needs surroundings
MAX_YAW, MAX_PITCH = 35.0, 30.0  # degrees
MIN_FRAMES = 8  # fewer are not worth it


def center() -> np.ndarray:
    """(2,) center of the stored crops in the mouth plane, units: a little below the canonical lips."""
    lips = canonical_face()[np.concatenate([LIPS_OUTER, LIPS_INNER]), :2]
    return lips.mean(axis=0) + np.array([0.0, 3.0])


def crop_pose() -> HeadPose:
    """The pose of a face in a stored crop: frontal, its mouth plane mapped to the crop."""
    offset = (SIDE - 1) / 2 - DENSITY * center()
    return HeadPose(np.array(DENSITY), np.eye(3), np.array([*offset, 0.0]))


def _sampling(plane: np.ndarray) -> np.ndarray:
    """(2, 3) map from the pixels of a stored crop to those of a frame."""
    start = center() - (SIDE - 1) / 2 / DENSITY
    return np.column_stack([plane[:, :2] / DENSITY, plane[:, :2] @ start + plane[:, 2]])


@dataclass(frozen=True)
class MouthCrops:
    """Mouth crops of one video.

    Attributes:
        images: (N, SIDE, SIDE, 3) uint8 BGR.
        points: (N, 206, 3) mesh points, crop pixels.
        angles: (N, 2) yaw and pitch, degrees.
        times: (N,) seconds.
        scale: median pixels per unit in the video.
    """

    images: np.ndarray
    points: np.ndarray
    angles: np.ndarray
    times: np.ndarray
    scale: float

    def save(self, path: Path) -> None:
        """Writes an uncompressed .npz."""
        with path.open("wb") as file:
            np.savez(file, **self.__dict__)

    @classmethod
    def load(cls, path: Path) -> MouthCrops:
        """Reads a file of `save`."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["images"], file["points"], file["angles"], file["times"], float(file["scale"]))


def spread(openness: np.ndarray, count: int) -> np.ndarray:
    """(≤ count,) sorted indices of frames whose openness is spread evenly between closed and wide open."""
    if len(openness) <= count:
        return np.arange(len(openness))
    order = np.argsort(openness, kind="stable")
    levels = openness[order]
    even = np.searchsorted(levels, np.linspace(levels[0], np.quantile(levels, 0.998), count // 2))
    ranks = np.linspace(0, len(order) - 1, count - count // 2).round().astype(int)
    return np.unique(order[np.concatenate([even.clip(0, len(order) - 1), ranks])])


def usable_frames(video: Path, known: MeshLabels) -> np.ndarray:
    """Sorted indices of frames with a face that is not turned far, the whole mouth inside the picture.

    Raises:
        MediaError: the video cannot be read.
    """
    with open_media(video) as container:
        size = np.array([container.streams.video[0].width, container.streams.video[0].height])
    rows = np.flatnonzero(known.found)
    yaw, pitch = np.abs(head_angles(HeadPose.of(known.points[rows]))).T
    lips = known.points[rows][:, LIPS_OUTER, :2]
    inside = ((lips > 4) & (lips < size - 5)).all(axis=(1, 2))
    return rows[(yaw < MAX_YAW) & (pitch < MAX_PITCH) & inside]


def crop_frames(video: Path, known: MeshLabels, numbers: np.ndarray) -> MouthCrops | None:
    """Crops frames of a labeled video by number; None if it has none of them.

    Raises:
        MediaError: the video cannot be read.
    """
    found = [(number, *_crop(frame, known.points[number])) for number, frame in read_frames(video, numbers)]
    if not found:
        return None
    present, images, points, angles = zip(*found, strict=True)
    scale = float(np.median(HeadPose.of(known.points[known.found][::4]).scale))
    return MouthCrops(np.stack(images), np.stack(points), np.stack(angles), known.times[list(present)], scale)


def crop_video(video: Path, labels: Path, count: int, min_scale: float) -> MouthCrops | None:
    """Crops up to `count` frames of a labeled video; None if the face is too small or hardly any frame is usable.

    Raises:
        MediaError: the video or its labels cannot be read.
    """
    known = load_labels(labels)
    if known.found.sum() < MIN_FRAMES:
        return None
    if np.median(HeadPose.of(known.points[known.found][::4]).scale) < min_scale:
        return None
    rows = usable_frames(video, known)
    if not len(rows):
        return None
    shapes = HeadPose.of(known.points[rows]).unpose(known.points[rows])
    found = crop_frames(video, known, rows[spread(opening(shapes), count)])
    return found if found is not None and len(found.images) >= MIN_FRAMES else None


def read_frames(video: Path, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a video by number, (H, W, 3) uint8 BGR, in the order of their numbers.

    Raises:
        MediaError: the video cannot be read.
    """
    wanted, last = set(numbers.tolist()), max(numbers.tolist(), default=-1)
    with open_media(video) as container:
        for number, frame in enumerate(decode(container, container.streams.video[0])):
            if number in wanted:
                yield number, to_bgr(frame, frame.width, frame.height)
            if number >= last:
                return


def _crop(frame: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pose = HeadPose.of(points)
    sampling = _sampling(mouth_plane(pose))
    image = sample_crop(frame, sampling, (SIDE, SIDE))
    return image, from_image(points.astype(np.float64), sampling), head_angles(pose)


def check_density(scale: float) -> None:
    """Raises UsageError unless a minimum scale is sensible."""
    if not 0.3 <= scale <= 2 * DENSITY:
        raise UsageError(f"min_scale must be from 0.3 to {2 * DENSITY:g} pixels per unit, not {scale}")
