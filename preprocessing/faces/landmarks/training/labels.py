"""Mesh labels on disk, for video frames and still images."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import MediaError, UsageError
from preprocessing.faces.mesh import MESH_INDICES

STEPS = 8  # quantization steps per pixel
# MediaPipe measures from the pixel edge, we from the pixel center. Uncorrected, the half pixel is a shift that depends
# on the face size and changes sign under mirroring: lips of unseen people came out 0.46 units to one side.
EDGE = np.array([0.5, 0.5, 0.0], np.float32)


@dataclass(frozen=True)
class MeshLabels:
    """The mesh points of a video's frames, in decoding order.

    Attributes:
        points: (T, 206, 3) float32 pixels, integers at pixel centers, z also in pixels; 0 where no face was found.
        found: (T,) bool, whether a face was found.
        times: (T,) seconds.
    """

    points: np.ndarray
    found: np.ndarray
    times: np.ndarray

    def first(self, count: int | None) -> MeshLabels:
        """The first `count` frames; None for all."""
        return MeshLabels(self.points[:count], self.found[:count], self.times[:count])


def load_labels(path: Path) -> MeshLabels:
    """Loads labels written by `preprocessing.faces.landmarks.training.label`.

    Raises:
        MediaError: the file is damaged or not a label file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            frames, packed = int(file["frames"]), lzma.decompress(file["steps"].tobytes())
            found, times = file["found"], file["times"]
        # All low bytes precede all high bytes; values are differences from the previous frame.
        flat = np.frombuffer(packed, np.uint8).reshape(2, -1).T.copy().view("<i2")
        steps = flat.reshape(3, len(MESH_INDICES), frames).transpose(2, 1, 0)
    except (OSError, KeyError, ValueError, lzma.LZMAError) as error:
        raise MediaError(f"{path} is not a mesh label file ({error})") from error
    points = (np.cumsum(steps, 0, dtype=np.int32) / STEPS).astype(np.float32)
    points[found] -= EDGE
    return MeshLabels(points, found.astype(bool), times)


def person_of(name: str) -> str:
    """The person in file NAME__CLIP: the part before the two underscores, else the whole name."""
    return name.split("__")[0]


def labeled_videos(videos: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Pairs each video of a folder with the label file of the same name.

    Raises:
        UsageError: no video has labels.
    """
    found = [(path, labels / f"{path.stem}.npz") for path in sorted(videos.glob("*.mp4"))]
    found = [(video, label) for video, label in found if label.is_file()]
    if not found:
        raise UsageError(f"no video of {videos} has labels NAME.npz in {labels}: make them with landmarks/label.py")
    return found


def stills(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields labeled still images: source name, uint8 BGR image and points (206, 3) float32.

    Raises:
        MediaError: the file is damaged or not a label file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data, ends, points, names = (file[name] for name in ("jpeg", "offsets", "points", "video"))
    except (OSError, KeyError, ValueError) as error:
        raise MediaError(f"{path} is not a file of labeled images ({error})") from error
    for k, name in enumerate(names):
        image = cv2.imdecode(data[ends[k] : ends[k + 1]], cv2.IMREAD_COLOR)
        if image is None:
            raise MediaError(f"image {k} of {path} is damaged")
        yield str(name), image, points[k].astype(np.float32) / STEPS - EDGE
