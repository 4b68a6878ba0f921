"""Median positions of eyes, nose and mouth within a detector's box over real clips, measured with YuNet's points.

    python -m benchmarks.face_points CLIPS --yunet MODEL

For YuNet's own boxes and for those derived from the Haar cascade's squares, prints the median points as fractions of
the box (the constants of preprocessing/faces/face_track.py) and the error of points placed this way compared with
YuNet's, in percent of the interocular distance.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import Detection, reduce_frame


def sample_frames(clip: Path, count: int) -> Iterator[np.ndarray]:
    """Evenly spaced frames of a clip, longest side at most 640 pixels."""
    video = cv2.VideoCapture(str(clip))
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    for index in (total * (2 * i + 1) // (2 * count) for i in range(count)):
        video.set(cv2.CAP_PROP_POS_FRAMES, index)
        read, frame = video.read()
        if read:
            yield reduce_frame(frame, 640)


def one_clip_each(folder: Path, speakers: int, seed: int = 0) -> list[Path]:
    """One clip per speaker (the file name up to "__"), for at most `speakers` speakers."""
    clips = sorted(folder.rglob("*.mp4"))
    random.Random(seed).shuffle(clips)
    first = {clip.name.split("__")[0]: clip for clip in reversed(clips)}
    return list(first.values())[:speakers]


def fractions(box: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, 2) as fractions of the box size."""
    return (points - box[:2]) / (box[2:] - box[:2])


def same_face(one: Detection, others: list[Detection]) -> Detection | None:
    """The first of the others whose center is close to that of `one`."""
    for other in others:
        a, b = (one.box[:2] + one.box[2:]) / 2, (other.box[:2] + other.box[2:]) / 2
        if np.abs(a - b).max() < 0.3 * (one.box[2] - one.box[0]):
            return other
    return None


def report(name: str, boxes: np.ndarray, points: np.ndarray) -> None:
    """Print medians and residuals of one detector: boxes (n, 4), YuNet's points (n, 5, 2)."""
    shares = np.array([fractions(box, five) for box, five in zip(boxes, points, strict=True)])
    medians = np.median(shares, axis=0)
    guess = boxes[:, None, :2] + medians * (boxes[:, None, 2:] - boxes[:, None, :2])
    eyes = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)
    error = np.linalg.norm(guess - points, axis=2) / eyes[:, None] * 100
    print(f"{name}: {len(boxes)} faces; medians {np.round(medians, 3).tolist()}")
    print(f"  error in % of eye distance: mean {error.mean():.1f}, 90th percentile {np.percentile(error, 90):.1f}")
    print("  of each point:", ", ".join(f"{value:.1f}" for value in error.mean(axis=0)))


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of clips named SPEAKER__ANYTHING.mp4")
    parser.add_argument("--yunet", type=Path, help="YuNet's model file")
    parser.add_argument("--speakers", type=int, default=40)
    parser.add_argument("--frames", type=int, default=5, help="frames per clip")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    yunet, haar = load_detector("yunet", yunet=args.yunet), load_detector("haar")
    detected, pairs = [], []
    for clip in one_clip_each(args.clips, args.speakers):
        for frame in sample_frames(clip, args.frames):
            faces, squares = yunet([frame])[0], haar([frame])[0]
            detected += faces[:1]
            square = same_face(faces[0], squares) if faces else None
            pairs += [(faces[0], square)] if square else []
    report("yunet", np.array([f.box for f in detected]), np.array([f.points for f in detected]))
    points = np.array([face.points for face, _ in pairs])
    report("haar", np.array([square.box for _, square in pairs]), points)
    corners = np.array([fractions(square.box, face.box.reshape(2, 2)) for face, square in pairs])
    print(
        "YuNet's box relative to Haar's, 0 0 1 1 if the cascade's TIGHT fits:",
        np.round(np.median(corners, axis=0), 3).ravel().tolist(),
    )


if __name__ == "__main__":
    main()
