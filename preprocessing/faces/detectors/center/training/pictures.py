"""Labeled frames for training scenes: reduced, extracted once and cached as arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import reduce_frame
from preprocessing.faces.landmarks.training.crops import choose_frames, labeled_frames
from preprocessing.faces.landmarks.training.labels import labeled_videos
from preprocessing.faces.mesh import LEFT_CORNER, LEFT_EYE, POINT, RIGHT_CORNER, RIGHT_EYE

SIDE = 320  # pixels, the longer side of a stored frame
# YuNet's tight box as fractions of the box around the mesh of an upright face: left, top, right, bottom. Medians over
# 151 frames of held-out people, made symmetric; the standard deviations are 0.02 to 0.03.
TIGHT = np.array([0.015, -0.11, 0.985, 0.995])
NOSE = POINT[1]


@dataclass(frozen=True)
class Face:
    """A face in a picture, as an upright box turned about its center.

    Attributes:
        center: (2,) pixels.
        size: (2,) width and height in the face's own direction, pixels.
        roll: radians, positive when the face is turned clockwise.
        points: (5, 2) pixels, in the order of `Detection.points`.
    """

    center: np.ndarray
    size: np.ndarray
    roll: float
    points: np.ndarray

    @classmethod
    def of(cls, mesh: np.ndarray) -> Face:
        """The face of mesh points (206, 2 or 3)."""
        flat = mesh[:, :2].astype(np.float64)
        right, left = flat[RIGHT_EYE].mean(0), flat[LEFT_EYE].mean(0)
        roll = float(np.arctan2(*(left - right)[::-1]))
        turn = rotation(roll)
        upright = flat @ turn  # turns by -roll
        low, high = upright.min(0), upright.max(0)
        box = np.tile(low, 2) + TIGHT * np.tile(high - low, 2)
        points = np.stack([right, left, flat[NOSE], flat[RIGHT_CORNER], flat[LEFT_CORNER]])
        return cls((box[:2] + box[2:]) / 2 @ turn.T, box[2:] - box[:2], roll, points)

    def moved(self, matrix: np.ndarray) -> Face:
        """The face after a similarity (2, 3)."""
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        mirrored = np.linalg.det(matrix[:, :2]) < 0
        axis = matrix[:, :2] @ np.array([np.cos(self.roll), np.sin(self.roll)])
        axis = -axis if mirrored else axis
        points = self.points[[1, 0, 2, 4, 3]] if mirrored else self.points
        moved = points @ matrix[:, :2].T + matrix[:, 2]
        center = matrix[:, :2] @ self.center + matrix[:, 2]
        return Face(center, self.size * scale, float(np.arctan2(axis[1], axis[0])), moved)

    def box(self) -> np.ndarray:
        """(4,) the box around the turned ellipse in the face's upright box."""
        turn = np.abs(rotation(self.roll))
        half = np.sqrt(turn**2 @ (self.size / 2) ** 2)
        return np.concatenate([self.center - half, self.center + half])


def rotation(angle: float) -> np.ndarray:
    """(2, 2) turning by an angle, radians, from x to y."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@dataclass(frozen=True)
class Pictures:
    """Frames of different sizes with one labeled face each.

    Attributes:
        pixels: all frames' bytes one after the other, a memory map.
        starts: (N + 1,) where each begins.
        shapes: (N, 2) height and width.
        faces: of each frame.
        persons: (N,) names.
    """

    pixels: np.ndarray
    starts: np.ndarray
    shapes: np.ndarray
    faces: list[Face]
    persons: np.ndarray

    def picture(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR."""
        return self.pixels[self.starts[row] : self.starts[row + 1]].reshape(*self.shapes[row], 3)


def make_pictures(
    videos: Path, labels: Path, folder: Path, per_person: int, stills: Path | None = None, split: str | None = None
) -> None:  # fmt: skip
    """Extracts up to `per_person` frames of each person, and all labeled stills, into `folder`.

    Raises:
        UsageError: no video has labels.
    """
    wanted = choose_frames(labeled_videos(videos, labels, split), per_person)
    save_pictures(labeled_frames(wanted, stills), folder)


def save_pictures(labeled: Iterable[tuple[str, np.ndarray, np.ndarray]], folder: Path) -> None:
    """Writes persons, frames and mesh points (206, 2 or 3), reduced, as `open_pictures` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[np.ndarray] = []
    shapes: list[tuple[int, int]] = []
    persons: list[str] = []
    with (folder / "pixels.bin").open("wb") as file:
        for name, frame, mesh in labeled:
            small = reduce_frame(frame, SIDE)
            face = Face.of(mesh[:, :2] * (small.shape[1] / frame.shape[1]))
            file.write(small.tobytes())
            rows.append(np.concatenate([face.center, face.size, [face.roll], face.points.ravel()]))
            shapes.append((small.shape[0], small.shape[1]))
            persons.append(name)
    np.savez(folder / "labels.npz", faces=np.array(rows), shapes=np.array(shapes), persons=np.array(persons))
    (folder / "done.json").write_text(json.dumps({"pictures": len(rows), "persons": len(set(persons))}) + "\n")


def open_pictures(folder: Path) -> Pictures:
    """Opens what `make_pictures` wrote.

    Raises:
        UsageError: the folder has no complete set of pictures.
    """
    if not (folder / "done.json").is_file():
        raise UsageError(f"{folder} does not contain a complete set of pictures")
    labels = np.load(folder / "labels.npz", allow_pickle=False)
    shapes = labels["shapes"]
    starts = np.concatenate([[0], np.cumsum(shapes.prod(1) * 3)])
    faces = [Face(row[:2], row[2:4], float(row[4]), row[5:].reshape(5, 2)) for row in labels["faces"]]
    return Pictures(np.memmap(folder / "pixels.bin", np.uint8, "r"), starts, shapes, faces, labels["persons"])


def read_backgrounds(folder: Path | None) -> list[np.ndarray]:
    """Pictures without a face, uint8 BGR, of at most twice `SIDE`.

    Raises:
        UsageError: the folder holds none that can be read.
    """
    if folder is None:
        return []
    found = list(_images(folder))
    if not found:
        raise UsageError(f"{folder} has no picture that can be read")
    return found


def _images(folder: Path) -> Iterator[np.ndarray]:
    for path in sorted(folder.iterdir()):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is not None:
            yield reduce_frame(picture, 2 * SIDE)
