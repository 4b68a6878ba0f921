"""Training crops: upright faces with their landmarks, extracted once from labeled videos and stored as arrays."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.training.labels import LabeledVideo, labeled_videos, load_labels, stills
from preprocessing.faces.landmarks.views import FACE_CENTER, View, roll
from preprocessing.faces.mesh import HeadPose, opening
from preprocessing.media.color_conversion import to_bgr
from preprocessing.media.video_reader import decode, open_media

SIZE, SIDE = 240, 200.0  # side of a stored crop: pixels, and units of the canonical face
MIN_FRAMES = 10  # clips with fewer frames with a face are skipped
MIN_SCALE = 0.3  # pixels per unit; lips of smaller faces are not visible
BACKGROUND_SIZE, BACKGROUND_EVERY = 120, 6
SEED = 0


@dataclass(frozen=True)
class Crops:
    """Upright face crops and background crops.

    Attributes:
        images: (N, 240, 240, 3) uint8 BGR, a memory map.
        points: (N, 206, 3) float32, pixels of the crop.
        persons: (N,) person names.
        background: (M, 120, 120, 3) uint8, frame regions away from the face.
    """

    images: np.ndarray
    points: np.ndarray
    persons: np.ndarray
    background: np.ndarray


def open_crops(folder: Path) -> Crops:
    """Opens the crops written by `make_crops`.

    Raises:
        UsageError: the folder has no complete set of crops.
    """
    if not (folder / "done.json").is_file():
        raise UsageError(f"{folder} does not contain a complete set of crops")
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Crops(images, *(np.load(folder / f"{name}.npy") for name in ("points", "persons", "background")))


def make_crops(
    videos: Path, labels: Path, folder: Path, per_person: int, stills_file: Path | None = None,
    split: str | None = None,
) -> None:  # fmt: skip
    """Extracts up to `per_person` frames of each person, covering the range of mouth openings.

    Args:
        videos: Folder of the videos.
        labels: Folder of their label files.
        folder: Output folder of the arrays.
        per_person: Maximum number of frames per person.
        stills_file: File of labeled still images; all of them are used.
        split: Only videos of this split, see `labeled_videos`.

    Raises:
        UsageError: no video has labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = choose_frames(labeled_videos(videos, labels, split), per_person)
    count = sum(len(rows) for rows in wanted.values())
    total = count + (sum(1 for _ in stills(stills_file)) if stills_file else 0)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (total, SIZE, SIZE, 3))
    points: list[np.ndarray] = []
    persons: list[str] = []
    background: list[np.ndarray] = []
    for name, frame, mesh in labeled_frames(wanted, stills_file):
        view = crop_view(HeadPose.of(mesh))
        images[len(points)] = view.crop(frame, SIZE)
        points.append(view.to_crop(mesh, SIZE))
        persons.append(name)
        if len(points) % BACKGROUND_EVERY == 0 and len(points) <= count:
            background += _background(frame, view, len(points))
    images.flush()
    np.save(folder / "points.npy", np.array(points, np.float32))
    np.save(folder / "persons.npy", np.array(persons))
    np.save(folder / "background.npy", np.array(background, np.uint8).reshape(-1, BACKGROUND_SIZE, BACKGROUND_SIZE, 3))
    (folder / "done.json").write_text(json.dumps({"faces": len(points), "persons": len(set(persons))}) + "\n")


def crop_view(pose: HeadPose) -> View:
    """The upright square of `SIDE` units around a face."""
    return View(pose.repose(FACE_CENTER[None])[0, :2], float(pose.scale) * SIDE, roll(pose))


def choose_frames(videos: Sequence[LabeledVideo], per_person: int) -> dict[LabeledVideo, np.ndarray]:
    """Selects frames from each video."""
    clips = defaultdict(list)
    for video in videos:
        clips[video.speaker].append(video)
    rng, chosen = np.random.default_rng(SEED), {}
    for person in sorted(clips):
        found = clips[person]
        some = [found[k] for k in rng.permutation(len(found))[:per_person]]
        some = some[: max(6, per_person // 20)]  # a few clips represent a person as well as hundreds
        for video in some:
            chosen[video] = _spread(video.labels, max(4, per_person // len(some)), rng)
    return chosen


def _spread(label: Path, count: int, rng: np.random.Generator) -> np.ndarray:
    """Samples frames uniformly over mouth opening; sorted."""
    mesh = load_labels(label)
    rows = np.flatnonzero(mesh.found)
    if len(rows) < MIN_FRAMES:
        return rows[:0]
    pose = HeadPose.of(mesh.points[rows])
    rows, open_ = rows[pose.scale > MIN_SCALE], opening(pose.unpose(mesh.points[rows]))[pose.scale > MIN_SCALE]
    if len(rows) <= count:
        return rows
    levels = rng.uniform(open_.min(), np.quantile(open_, 0.99), count // 2)
    near = [rows[np.argmin(np.abs(open_ - level + rng.normal(0, 0.3, len(open_))))] for level in levels]
    return np.unique([*near, *rng.choice(rows, count - len(near), replace=False)])


def labeled_frames(
    wanted: dict[LabeledVideo, np.ndarray], stills_file: Path | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields person, frame and points of every selected face."""
    for video, rows in tqdm(wanted.items(), disable=None, unit="video"):
        mesh, want = load_labels(video.labels), set(rows.tolist())
        if not want:
            continue
        with open_media(video.video) as container:
            for k, frame in enumerate(decode(container, container.streams.video[0])):
                if k > max(want):
                    break
                if k in want:
                    yield video.speaker, to_bgr(frame, frame.width, frame.height), mesh.points[k]
    if stills_file:
        yield from stills(stills_file)


def _background(frame: np.ndarray, view: View, seed: int) -> list[np.ndarray]:
    """A random square of the frame clear of the face, if one is found."""
    rng = np.random.default_rng((SEED, seed))
    height, width = frame.shape[:2]
    for _ in range(10):
        center, side = rng.uniform(0, [width, height]), view.side * np.exp(rng.uniform(-1.5, 0.3))
        if np.abs(center - view.center).max() > side / 2 + view.side * 0.3:
            return [View(center, side, rng.uniform(-0.5, 0.5)).crop(frame, BACKGROUND_SIZE)]
    return []
