"""Mesh labels on disk, for video frames and still images."""

from __future__ import annotations

import csv
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.mesh import MESH_INDICES

TABLE = "labels.csv"  # beside the labels that `preprocessing.build --mesh` makes
MEDIAPIPE = "MediaPipe FaceMesh"
SPLITS = ("train", "val")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg")
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


@dataclass(frozen=True)
class LabeledVideo:
    """A video with its label file.

    Attributes:
        name: unique within the folder.
        speaker: the person.
        split: train, val or test; "" if unknown.
    """

    video: Path
    labels: Path
    name: str
    speaker: str
    split: str = ""


def labeled_videos(videos: Path, labels: Path, split: str | None = None) -> list[LabeledVideo]:
    """The videos of a folder that have labels.

    With the table that `preprocessing.build --mesh` writes, speakers and splits are the table's; else each video
    VIDEOS/NAME.mp4 goes with LABELS/NAME.npz, its person is given by the name, and its split is unknown.

    Args:
        videos: folder of videos.
        labels: folder of their labels.
        split: only those of this split, or of unknown split.

    Raises:
        UsageError: no video has labels, or the table cannot be read.
    """
    if (labels / TABLE).is_file():
        found = [item for item in _of_table(videos, labels) if split in (None, item.split)]
    else:
        pairs = [(path, labels / f"{path.stem}.npz") for path in sorted(videos.glob("*.mp4"))]
        found = [LabeledVideo(path, mesh, path.stem, person_of(path.stem)) for path, mesh in pairs if mesh.is_file()]
    if not found:
        what = "video" if split is None else f"video of the split {split}"
        raise UsageError(
            f"no {what} in {display_path(videos)} has labels in {display_path(labels)}: make them with "
            "preprocessing.build --mesh or preprocessing/faces/landmarks/training/label.py"
        )
    return found


def find_videos(videos: Path, labels: Path) -> list[LabeledVideo]:
    """The labeled videos of the splits train and val.

    With the table that `preprocessing.build --mesh` writes, those of the table; else the videos in the folders train
    and val that have labels in folders of the same name. Speakers are then VIDEOS/manifest.csv's, or the names'.

    Raises:
        UsageError: no video has labels, or the table cannot be read.
    """
    if (labels / TABLE).is_file():
        return [item for item in labeled_videos(videos, labels) if item.split in SPLITS]
    speakers, found = _speakers(videos), []
    for split in SPLITS:
        for video in sorted((videos / split).glob("*")):
            mesh, name = labels / split / f"{video.stem}.npz", video.stem
            if video.suffix.lower() in VIDEO_SUFFIXES and mesh.is_file():
                found.append(LabeledVideo(video, mesh, name, speakers.get(name, person_of(name)), split))
    if not found:
        searched = " and ".join(SPLITS)
        raise UsageError(
            f"no video in {display_path(videos)} has labels in {display_path(labels)}: searched {searched}"
        )
    return found


def _speakers(videos: Path) -> dict[str, str]:
    """Video stem → speaker from the manifest; empty without a manifest."""
    manifest = videos / "manifest.csv"
    if not manifest.is_file():
        return {}
    with manifest.open(newline="", encoding="utf-8") as file:
        return {Path(row["file"]).stem: row["speaker"] for row in csv.DictReader(file)}


def has_split(labels: Path, split: str) -> bool:
    """Whether the table of a folder of labels has videos of a split; False without a table."""
    return (labels / TABLE).is_file() and any(row["split"] == split for row in _rows(labels / TABLE))


def _of_table(videos: Path, labels: Path) -> Iterator[LabeledVideo]:
    for row in _rows(labels / TABLE):
        video, mesh = videos / row["video"], labels / row["labels"]
        if video.is_file() and mesh.is_file():
            yield LabeledVideo(video, mesh, row["name"], row["speaker"], row["split"])


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            if missing := {"video", "labels", "name", "speaker", "split"} - set(reader.fieldnames or ()):
                raise UsageError(f"{display_path(table)} lacks the column {' and '.join(sorted(missing))}")
            return list(reader)
    except (OSError, csv.Error) as error:
        raise UsageError(f"{display_path(table)} is not a readable table ({error})") from error


def labels_made_by(path: Path) -> str:
    """Which network made a label file; older files do not say, and are MediaPipe's.

    Raises:
        MediaError: the file is damaged or not a label file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["made_by"]) if "made_by" in file else MEDIAPIPE
    except (OSError, ValueError) as error:
        raise MediaError(f"{display_path(path)} is not a mesh label file ({error})") from error


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


def person_shares(persons: np.ndarray, power: float) -> np.ndarray:
    """(N,) sampling probability of each face: a person with n faces is drawn in proportion to n to this power."""
    _, which, counts = np.unique(persons, return_inverse=True, return_counts=True)
    shares = counts[which] ** (power - 1.0)
    return shares / shares.sum()
