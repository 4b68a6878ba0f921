"""Compares the tracker with mesh labels on videos.

    python -m preprocessing.faces.landmarks.measure VIDEOS --mesh LABELS

Prints a line per video: the number of frames compared; the fraction of labeled frames with points; the mean error of
all points and of the lips in percent of the eye distance, and the constant part of the lip error; the Pearson
correlation of mouth opening and width; the jitter of the lips while the mouth is still, ours and the labels', in units
of the canonical face (eyes 42 apart); the fraction of the labels' closures kept within one frame; and milliseconds
per frame.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from preprocessing.commands import Parser, run_command
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector
from preprocessing.faces.landmarks.predictor import LandmarkNetwork, load_landmarks
from preprocessing.faces.landmarks.smoothing import SmoothingConfig
from preprocessing.faces.landmarks.tracker import LandmarkTracker
from preprocessing.faces.landmarks.training.labels import MeshLabels, labeled_videos, load_labels
from preprocessing.faces.landmarks.training.losses import measure_points
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, opening
from preprocessing.media.color_conversion import to_bgr
from preprocessing.media.video_reader import decode, open_media

CLOSED = 1.2  # units between the inner lips' midpoints, above the smallest opening in the video
STILL = 0.25  # units: the standard deviation of the labels' opening is lower while the mouth is still


def compare(points: np.ndarray, labels: np.ndarray, fps: float) -> dict[str, float]:
    """Metrics of (T, 206, 3) points of consecutive frames against the labels."""
    shapes, truth = (HeadPose.of(one).unpose(one) for one in (points, labels))
    still = still_frames(opening(truth), fps)
    return measure_points(points.astype(np.float64), labels) | {
        "jitter": jitter(shapes, still),
        "label_jitter": jitter(truth, still),
        "closures": closures_kept(opening(shapes), opening(truth)),
    }


def still_frames(gaps: np.ndarray, fps: float) -> np.ndarray:
    """(T,) whether the mouth opening stays constant for half a second around each frame."""
    reach = max(1, round(fps / 4))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(gaps, reach, mode="edge"), 2 * reach + 1)
    return windows.std(-1) < STILL


def jitter(shapes: np.ndarray, still: np.ndarray) -> float:
    """RMS deviation, in units, of lip points from the mean of their temporal neighbors, over still frames."""
    lips = shapes[:, [*LIPS_OUTER, *LIPS_INNER], :2]
    away = lips[1:-1] - (lips[:-2] + lips[2:]) / 2
    away = away[still[1:-1]]
    return float(np.sqrt((away**2).sum(-1).mean() / 1.5)) if len(away) else float("nan")


def closures_kept(ours: np.ndarray, truth: np.ndarray) -> float:
    """Fraction of closures of one opening (T,) that the other matches within one frame. NaN without closures."""
    closed = [gap < np.quantile(gap, 0.02) + CLOSED for gap in (ours, truth)]
    starts = np.flatnonzero(closed[1] & ~np.r_[False, closed[1][:-1]])
    near = np.convolve(closed[0], [1, 1, 1], "same") > 0
    return float(near[starts].mean()) if len(starts) else float("nan")


def measure_video(
    video: Path, labels: MeshLabels, network: LandmarkNetwork, detector: FaceDetector, smoothing: SmoothingConfig
) -> dict[str, float]:
    """Metrics of one video, tracked from its first frame."""
    fps = 1 / max(float(np.median(np.diff(labels.times))), 1e-3) if len(labels.times) > 1 else 25.0
    tracker, found, spent = LandmarkTracker(network, detector, smoothing=smoothing), [], 0.0
    with open_media(video) as container:
        for frame in islice(decode(container, container.streams.video[0]), len(labels.found)):
            image, begun = to_bgr(frame, frame.width, frame.height), time.process_time()
            found += tracker.push(image)
            spent += time.process_time() - begun
    found += tracker.finish()
    count = min(len(found), len(labels.found))
    both = np.array([k for k in range(count) if labels.found[k] and found[k] is not None], int)
    values = {"frames": len(both), "found": len(both) / max(1, labels.found.sum()), "ms": 1e3 * spent / max(1, count)}
    if len(both) < 10:
        return values
    ours = np.stack([one.points for k in both if (one := found[k]) is not None])
    return values | compare(ours, labels.points[both].astype(np.float64), fps)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = Parser("preprocessing.faces.landmarks.measure", __doc__)
    flags.add_argument("videos", type=Path, help="folder of videos")
    flags.add_argument("--mesh", type=Path, required=True, help="folder of their labels")
    flags.add_argument("--split", help="only the videos of this split of the labels' table, e.g. val")
    flags.add_argument("--network", type=Path, help="checkpoint (default: the bundled one)")
    flags.add_argument("--yunet", type=Path, help="YuNet model file")
    flags.add_argument("--skip", default="", help="skip videos whose names start with this prefix")
    flags.add_argument(
        "--frames", type=int, default=0, help="compare only this many frames at the start of each video (default: all)"
    )
    flags.add_argument("--raw", action="store_true", help="disable smoothing")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = parser().parse_args(argv)

    def job() -> None:
        network, detector = load_landmarks(given.network), load_detector(yunet=given.yunet)
        smoothing, rows = SmoothingConfig(reach=0) if given.raw else SmoothingConfig(), []
        cv2.setNumThreads(1)
        for item in labeled_videos(given.videos, given.mesh, given.split):
            if given.skip and item.video.stem.startswith(given.skip):
                continue
            truth = load_labels(item.labels).first(given.frames or None)
            rows.append(measure_video(item.video, truth, network, detector, smoothing))
            _print(item.name, rows[-1])
        keys = dict.fromkeys(key for row in rows for key in row)
        _print("mean", {key: float(np.nanmean([row.get(key, np.nan) for row in rows])) for key in keys})

    return run_command("preprocessing.faces.landmarks.measure", job)


def _print(name: str, values: dict[str, float]) -> None:
    print(json.dumps({"video": name} | {key: round(float(value), 3) for key, value in values.items()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
