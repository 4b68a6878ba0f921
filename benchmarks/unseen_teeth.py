"""How sharp drawn teeth are in photos of unseen people, at the photos' own size.

    .venv/bin/python benchmarks/unseen_teeth.py VIDEOS LABELS [--least 2.3] [--sheet FILE]

VIDEOS and LABELS are those of wav2lip.renderer.prepare. Of every video of the split val whose face has at least so many
pixels a unit (a unit is 1/42 of the distance between the eyes), the frame with the least open mouth is the photo, and
its mouth is opened like the widest frame and like those open wider than 11/12 and 5/6 of the frames; these are the
truth. Sharpness is the root mean square of the Laplacian, inside the mouth and on the lips beside it; medians of a
video. A sheet shows photo, drawn and real mouth.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.faces.landmarks.training.labels import LabeledVideo, load_labels  # noqa: E402
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, opening  # noqa: E402
from wav2lip.renderer.lip_edges import lip_edges, with_lip_edges  # noqa: E402
from wav2lip.renderer.prepare import find_people  # noqa: E402
from wav2lip.renderer.renderer import MouthRenderer  # noqa: E402
from wav2lip.renderer.training.crops import read_frames, usable_frames  # noqa: E402

RANKS = (0, 12, 6)  # of the targets: the widest, and the last of the widest 1/12 and 1/6
SHUT, OPEN = 1.0, 2.5  # units; a photo is at most so far open, and the widest frame at least
LEAST_AREA = 20  # square units; smaller openings are not measured
VIEW = (44, 28)  # units of a picture in the sheet
ZOOM = 10  # its pixels a unit


def sharpness(image: np.ndarray, points: np.ndarray) -> tuple[float, float, int]:
    """Sharpness inside the lips and on them, and the pixels inside; (206, 3) mesh points."""
    masks = []
    for ring in (LIPS_INNER, LIPS_OUTER):
        mask = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(points[ring, :2]).astype(np.int32)], 1)
        masks.append(mask)
    small, large = np.ones((3, 3), np.uint8), np.ones((5, 5), np.uint8)
    inside = cv2.erode(masks[0], small) > 0
    lips = (cv2.erode(masks[1], small) > 0) & (cv2.dilate(masks[0], large) == 0)
    edges = cv2.Laplacian(image.astype(np.float32).mean(axis=2), cv2.CV_32F) ** 2
    inner, outer = (float(np.sqrt(edges[mask].mean())) if mask.any() else 0.0 for mask in (inside, lips))
    return inner, outer, int(inside.sum())


def around_mouth(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The mouth and its surroundings, for the sheet."""
    scale, middle = float(HeadPose.of(points).scale), points[LIPS_OUTER, :2].mean(axis=0)
    size = tuple(ZOOM * side for side in VIEW)
    start = middle - np.array(VIEW) * scale / 2
    sampling = np.array([[scale / ZOOM, 0, start[0]], [0, scale / ZOOM, start[1]]])
    return cv2.warpAffine(image, sampling, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def measure(item: LabeledVideo, least: float) -> tuple[list[tuple[float, float]], list[np.ndarray]]:
    """Sharpness of drawn and of real mouths, relative to the lips beside them, and the sheet's rows."""
    known = load_labels(item.labels)
    if known.found.sum() < 20 or np.median(HeadPose.of(known.points[known.found]).scale) < least:
        return [], []
    usable = usable_frames(item.video, known)
    gaps = opening(HeadPose.of(known.points[usable]).unpose(known.points[usable]))
    if len(usable) < 12 or gaps.min() > SHUT or gaps.max() < OPEN:
        return [], []
    order = usable[np.argsort(gaps)]
    targets = [int(order[-1 - (len(order) // rank if rank else 0)]) for rank in RANKS]
    photo = int(order[0])
    frames = dict(read_frames(item.video, np.array([photo, *targets])))
    points, figures, rows = known.points[photo], [], []
    pose = HeadPose.of(points)
    for target in targets:
        real = with_lip_edges(known.points[target], lip_edges(frames[target], known.points[target]))
        wanted = pose.repose(HeadPose.of(real).unpose(real))
        made = MouthRenderer().render(frames[photo], points, wanted, pose=pose)
        (ours, lips, area), (theirs, beside, _) = sharpness(made, wanted), sharpness(frames[target], real)
        if area < LEAST_AREA * float(pose.scale) ** 2 or not lips or not beside:
            continue
        figures.append((ours / lips, theirs / beside))
        views = ((frames[photo], points), (made, wanted), (frames[target], real))
        rows.append(np.hstack([around_mouth(image, at) for image, at in views]))
    return figures, rows


def main() -> None:
    """Measures and prints a line for each video and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("videos", "labels"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--least", type=float, default=2.3, help="pixels a unit (default: 2.3)")
    parser.add_argument("--sheet", type=Path, help="picture of the mouths")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    people = find_people(args.videos, args.labels, "val")
    seen = find_people(args.videos, args.labels, "train")
    medians, sheet = [], []
    for item in (item for who, items in people.items() if who not in seen for item in items):
        figures, rows = measure(item, args.least)
        if figures:
            medians.append(np.median(figures, axis=0))
            sheet += rows
            print(f"{item.name}: drawn {medians[-1][0]:.2f}, real {medians[-1][1]:.2f} of the lips' sharpness")
    if not medians:
        sys.exit("no video is large enough")
    drawn, real = np.mean(medians, axis=0)
    print(f"{len(medians)} videos: drawn {drawn:.2f}, real {real:.2f}")
    if args.sheet:
        cv2.imwrite(str(args.sheet), np.vstack(sheet))


if __name__ == "__main__":
    main()
