"""Face detectors compared on labeled frames and on hard ones made of them.

    python -m benchmarks.detectors VIDEOS --mesh LABELS --detectors center haar yunet [--yunet FILE] [--frames 3]
        [--skip NAME…] [--sheet FILE]

VIDEOS and LABELS are as of preprocessing.faces.landmarks.train; people whose name begins with one of --skip are left
out. Per kind of picture: recall at an overlap (IoU) of 0.5, false faces per picture, mean overlap of the faces found,
and CPU milliseconds per picture in one thread.

The kinds: `frames` as they are, their longer side at most 640 pixels; the same `rolled` by 25° to 45°, `dark`, of low
contrast (`flat`), and with the face `cut` off by the border; `small`, faces of 24 to 48 pixels on 640x640; `crowd`, up
to five of 24 to 300 pixels that may cover each other; `empty`, without a face, from other places of the videos.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from preprocessing.faces.detectors import load_detector
from preprocessing.faces.detectors.center.training.measure import DetectionCount
from preprocessing.faces.detectors.center.training.pictures import Face, Pictures, rotation
from preprocessing.faces.detectors.center.training.scenes import Scene, SceneMaker, SceneRecipe
from preprocessing.faces.face_track import Detection, FaceDetector, reduce_frame
from preprocessing.faces.landmarks.training.crops import choose_frames, labeled_frames
from preprocessing.faces.landmarks.training.labels import labeled_videos

SIDE = 640
CLEAN = SceneRecipe(SIDE, 24, 48, natural=0, empty=0, turned=0, dark=0, scrambled=0, covered=0, blur=0, gray=0, noise=2)
MADE = {"small": CLEAN, "crowd": replace(CLEAN, largest=300, turned=0.3), "empty": replace(CLEAN, empty=1)}
KINDS = ("frames", "rolled", "dark", "flat", "cut", *MADE)


def load_frames(videos: Path, labels: Path, per_person: int, skip: list[str]) -> Pictures:
    """Labeled frames in memory."""
    chosen = [video for video in labeled_videos(videos, labels) if not video.name.startswith(tuple(skip))]
    frames, faces, persons = [], [], []
    for name, frame, mesh in labeled_frames(choose_frames(chosen, per_person), None):
        small = reduce_frame(frame, SIDE)
        frames.append(small)
        faces.append(Face.of(mesh[:, :2] * (small.shape[1] / frame.shape[1])))
        persons.append(name)
    shapes = np.array([frame.shape[:2] for frame in frames])
    starts = np.concatenate([[0], np.cumsum(shapes.prod(1) * 3)])
    return Pictures(np.concatenate([frame.ravel() for frame in frames]), starts, shapes, faces, np.array(persons))


def altered(kind: str, picture: np.ndarray, face: Face, rng: np.random.Generator) -> tuple[np.ndarray, Face]:
    """A frame of a kind that keeps its one face."""
    if kind == "rolled":
        return _rolled(picture, face, np.radians(rng.uniform(25, 45)) * rng.choice([-1, 1]))
    if kind == "cut":
        return _cut(picture, face, rng)
    gain, offset = {"frames": (1.0, 0.0), "dark": (0.1, 0.0), "flat": (0.15, 100.0)}[kind]
    return cv2.convertScaleAbs(picture, alpha=gain, beta=offset), face


def _rolled(picture: np.ndarray, face: Face, angle: float) -> tuple[np.ndarray, Face]:
    matrix = np.concatenate([rotation(angle), np.zeros((2, 1))], 1)
    matrix[:, 2] = face.center - matrix[:, :2] @ face.center
    size = picture.shape[1::-1]
    return cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE), face.moved(matrix)


def _cut(picture: np.ndarray, face: Face, rng: np.random.Generator) -> tuple[np.ndarray, Face]:
    """Crops so that a border takes 20 to 40 % of the face: left, right, top or bottom."""
    box, share = face.box(), rng.uniform(0.2, 0.4)
    low, high = np.zeros(2), np.array(picture.shape[1::-1], np.float64)
    axis, first = int(rng.integers(2)), bool(rng.integers(2))
    if first:
        low[axis] = box[axis] + share * (box[axis + 2] - box[axis])
    else:
        high[axis] = box[axis + 2] - share * (box[axis + 2] - box[axis])
    (left, top), (right, bottom) = low.astype(int), np.maximum(high, low + 24).astype(int)
    moved = face.moved(np.array([[1.0, 0, -left], [0, 1, -top]]))
    return np.ascontiguousarray(picture[max(top, 0) : bottom, max(left, 0) : right]), moved


def scenes(kind: str, pictures: Pictures) -> Iterator[Scene]:
    """One picture of a kind for each frame."""
    rng, maker = np.random.default_rng(KINDS.index(kind)), SceneMaker(pictures, [], MADE.get(kind, CLEAN))
    for row, face in enumerate(pictures.faces):
        if kind in MADE:
            yield maker.draw(rng)
            continue
        picture, moved = altered(kind, pictures.picture(row), face, rng)
        yield Scene(picture, moved.box()[None], moved.points[None], np.zeros((0, 4)))


def measure(
    detectors: dict[str, FaceDetector], kind: str, pictures: Pictures,
    show: Callable[[str, Scene, list[Detection]], None],
) -> None:  # fmt: skip
    """Prints the rows of a kind."""
    counts, seconds = {name: DetectionCount() for name in detectors}, dict.fromkeys(detectors, 0.0)
    for scene in scenes(kind, pictures):
        height, width = scene.image.shape[:2]
        for name, detector in detectors.items():
            begun = time.process_time()
            (found,) = detector([scene.image])
            seconds[name] += time.process_time() - begun
            counts[name].add(found, scene.boxes, scene.ignored, (width, height))
            show(name, scene, found)
    for name, count in counts.items():
        found, spent = count.figures(), 1000 * seconds[name] / count.pictures
        recall = f"{found['recall']:.3f}" if count.faces else "–"
        figures = f"{recall} | {found['false']:.3f} | {found['overlap']:.2f} | {spent:.1f}"
        print(f"| {kind} | {name} | {figures} |", flush=True)


class Sheet:
    """Collects pictures with one detector's boxes for a contact sheet."""

    def __init__(self, name: str, every: int = 9, side: int = 256) -> None:
        self.name, self.every, self.side, self.seen = name, every, side, 0
        self.tiles: list[np.ndarray] = []

    def show(self, name: str, scene: Scene, found: list[Detection]) -> None:
        """Adds every n-th picture: green labels, red detections."""
        if name != self.name:
            return
        self.seen += 1
        if self.seen % self.every:
            return
        picture = scene.image.copy()
        for boxes, color in ((scene.boxes, (0, 255, 0)), ([one.box for one in found], (0, 0, 255))):
            for x1, y1, x2, y2 in np.round(boxes).astype(int) if len(boxes) else ():
                cv2.rectangle(picture, (int(x1), int(y1)), (int(x2), int(y2)), color, 2)
        for point in (point for one in found if one.points is not None for point in one.points):
            cv2.circle(picture, (int(point[0]), int(point[1])), 2, (0, 255, 255), -1)
        small = reduce_frame(picture, self.side)
        tile = np.zeros((self.side, self.side, 3), np.uint8)
        tile[: small.shape[0], : small.shape[1]] = small
        self.tiles.append(tile)

    def save(self, path: Path, across: int = 8) -> None:
        """Writes the sheet."""
        tiles = self.tiles + [np.zeros_like(self.tiles[0])] * (-len(self.tiles) % across)
        rows = [np.hstack(tiles[k : k + across]) for k in range(0, len(tiles), across)]
        cv2.imwrite(str(path), np.vstack(rows))


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("--mesh", type=Path, required=True, help="folder of their mesh labels")
    parser.add_argument("--detectors", nargs="+", default=["center", "haar"], help="(default: center haar)")
    parser.add_argument("--yunet", type=Path, help="YuNet's model file")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out videos whose names begin so")
    parser.add_argument("--frames", type=int, default=3, help="frames per person (default: 3)")
    parser.add_argument("--sheet", type=Path, help="write a sheet of our detector's pictures")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    detectors = {name: load_detector(name, yunet=args.yunet) for name in args.detectors}
    pictures, sheet = load_frames(args.videos, args.mesh, args.frames, args.skip), Sheet("center")
    print(f"{len(pictures.faces)} frames of {len(set(pictures.persons))} people\n")
    print("| pictures | detector | recall | false faces | overlap | CPU ms |\n|---|---|---|---|---|---|")
    for kind in KINDS:
        measure(detectors, kind, pictures, sheet.show)
    if args.sheet:
        sheet.save(args.sheet)


if __name__ == "__main__":
    main()
