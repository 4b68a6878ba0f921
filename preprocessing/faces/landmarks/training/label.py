"""Labels videos with mesh points to train landmark networks: `python label.py OUT VIDEO...`

Writes OUT/NAME.npz for each video: the points of MediaPipe FaceMesh in each frame (attention model for lips and eyes,
one face, tracking), for `preprocessing.faces.landmarks.train --mesh OUT`. Videos with an existing label file are
skipped. The part of the file name before two underscores identifies the person: NAME__CLIP.mp4.
`python -m preprocessing.build … --mesh FOLDER` runs this script, too: `--list FILE` has a JSON pair [video, label file]
a line.

MediaPipe needs a different numpy version, so this script is standalone and runs in a separate environment:

    python -m venv mesh && mesh/bin/pip install mediapipe==0.10.21 "numpy<2" av
    mesh/bin/python preprocessing/faces/landmarks/training/label.py labels videos/*.mp4
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 8  # quantization steps per pixel
# preprocessing.faces.mesh.MESH_INDICES, as ranges: this script cannot import the package.
RANGES = (
    "0-2 6 8-20 32-33 37-43 55 57-58 61-62 72-74 76-78 80-92 94-97 99 106 125 127 130 132-133 135-136 138 140-141 "
    "146 148-152 164-165 167-172 175-187 191-192 194-195 197 199-202 204 206-208 210-216 234 241-242 250 262-263 "
    "267-273 285 287-288 291-292 302-304 306-308 310-322 324-326 328 335 354 356 359 361-362 364-365 367 369-370 "
    "375 377-379 391 393-397 400-411 415-416 418 421-422 424 426-428 430-436 454 461-462"
)


def mesh_indices() -> list[int]:
    """Indices of the 206 MediaPipe points that are kept."""
    ends = [[int(end) for end in part.split("-")] for part in RANGES.split()]
    return [index for span in ends for index in range(span[0], span[-1] + 1)]


def pack(points: np.ndarray) -> np.ndarray:
    """(T, 206, 3) pixels → compressed bytes of the differences between frames, all low bytes first."""
    whole = np.clip(np.round(points * STEPS), -(2**15) + 1, 2**15 - 1).astype(np.int32)
    steps = np.diff(whole, axis=0, prepend=np.zeros_like(whole[:1])).astype("<i2")
    data = steps.transpose(2, 1, 0).copy().view(np.uint8).reshape(-1, 2).T.tobytes()
    return np.frombuffer(lzma.compress(data, preset=9), np.uint8)


def mesh_of(video: Path) -> Iterator[tuple[float, np.ndarray | None]]:
    """Yields time in seconds and points (206, 3) in pixels for each frame in decoding order; None without a face."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    import av
    import mediapipe

    kept = mesh_indices()
    mesh: Any = mediapipe.solutions.face_mesh.FaceMesh(
        max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.4, min_tracking_confidence=0.5
    )
    with mesh, av.open(str(video)) as container:
        stream = container.streams.video[0]
        for k, frame in enumerate(container.decode(stream)):
            image = frame.to_ndarray(format="rgb24")
            found = mesh.process(image).multi_face_landmarks
            time = k / float(stream.average_rate or 25) if frame.pts is None else float(frame.pts * stream.time_base)
            size = np.array([frame.width, frame.height, frame.width])
            landmarks = found[0].landmark if found else None
            yield time, None if landmarks is None else np.array([(p.x, p.y, p.z) for p in landmarks])[kept] * size


def write_labels(frames: Iterable[tuple[float, np.ndarray | None]], target: Path, made_by: str) -> str:
    """Writes the labels of (seconds, points or None) a frame, as from `mesh_of`, atomically; returns a summary.

    Args:
        made_by: which network found the points; stored in the file.
    """
    times, found, points = [], [], []
    for time, mesh in frames:
        times.append(time)
        found.append(mesh is not None)
        points.append(np.zeros((len(mesh_indices()), 3), np.float32) if mesh is None else mesh.astype(np.float32))
    track = np.array(points, np.float32).reshape(-1, len(mesh_indices()), 3)
    part = target.with_suffix(".part.npz")
    np.savez(part, steps=pack(track), found=np.array(found, bool), times=times, frames=len(times), made_by=made_by)
    os.replace(part, target)
    return f"{sum(found)} of {len(times)} frames with a face"


def maker() -> str:
    """Name and version of the network of `mesh_of`; fails without PyAV, MediaPipe or its face mesh."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    import av  # noqa: F401
    import mediapipe

    mediapipe.solutions.face_mesh.FaceMesh  # noqa: B018  # later versions of MediaPipe lack it
    return f"MediaPipe FaceMesh {mediapipe.__version__}"


def jobs(given: argparse.Namespace) -> list[tuple[Path, Path]]:
    """The (video, label file) pairs of the arguments."""
    if given.list:
        lines = given.list.read_text(encoding="utf-8").splitlines()
        return [(Path(video), Path(target)) for video, target in map(json.loads, lines)]
    given.out.mkdir(parents=True, exist_ok=True)
    pairs = [(video, given.out / f"{video.stem}.npz") for video in given.videos]
    return [(video, target) for video, target in pairs if not target.exists()]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if a video could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder for the labels")
    parser.add_argument("videos", type=Path, nargs="*")
    parser.add_argument("--list", type=Path, metavar="FILE", help="instead: pairs of video and label file")
    parser.add_argument("--version", action="store_true", help="print the network's name and version")
    given, failed = parser.parse_args(argv), 0
    if given.version:
        print(maker())
        return 0
    if not (given.list or given.videos):
        parser.error("OUT and at least one VIDEO are needed, or --list FILE")
    for video, target in jobs(given):
        try:
            print(f"{video.name}: {write_labels(mesh_of(video), target, maker())}", flush=True)
        except (OSError, IndexError, ValueError) as error:
            print(f"{video}: cannot be read ({error})", file=sys.stderr, flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
