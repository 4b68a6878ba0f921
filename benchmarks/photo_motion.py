"""What photos do with `--photo-motion full`: which of them blink, what a frame costs, and whether lips stay on target.

    .venv/bin/python benchmarks/photo_motion.py FACE... [--audio speech.wav] [--at 20] [--sheet folder] [--yunet FILE]

A FACE is a photo, or a video of which frame `--at` is taken as one. With `--audio` each says it still and moving, and
the openings of both, seen by our landmarks, are compared. `--sheet` writes the frames around the first blink.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from inference.files.face_source import FaceSource, Framing  # noqa: E402
from inference.mesh.engine import MeshEngine  # noqa: E402
from inference.photo.photo_motion import PhotoMotion  # noqa: E402
from inference.pipeline import LipSync  # noqa: E402
from preprocessing.commands import Parser, run_command  # noqa: E402
from preprocessing.errors import MediaError  # noqa: E402
from preprocessing.faces.mesh import Landmarks, opening  # noqa: E402

FPS = 25
TIMED = 50  # frames
AROUND = 4  # frames before the middle of a blink and after it


def motion_of(lipsync: LipSync, photo: Path, options: dict[str, object]) -> tuple[PhotoMotion, np.ndarray, Landmarks]:
    """The motion of a photo, its pixels and its landmarks."""
    avatar = lipsync.avatar(photo, **options)
    picture, found = avatar.frames[0], avatar.landmarks.landmarks(0)
    avatar.close()
    assert found is not None
    return PhotoMotion(picture, found.points, "full"), picture, found


def sheet(motion: PhotoMotion, picture: np.ndarray) -> np.ndarray:
    """Consecutive frames around the first blink."""
    times = np.arange(0, 8, 1 / FPS)
    shut = int(np.argmax([motion.closure(moment) for moment in times]))
    frames = [motion.at(picture, times[number]) for number in range(shut - AROUND, shut + AROUND)]
    return np.vstack([np.hstack(frames[:AROUND]), np.hstack(frames[AROUND:])])


def openings(engine: MeshEngine, video: Path, near: Landmarks) -> np.ndarray:
    """(T,) units between the inner lips."""
    found = []
    for frame in FaceSource(video, Framing()).frames():
        near = engine.landmarks(frame, near)
        found.append(float(opening(near.pose.unpose(near.points))))
    return np.array(found)


def compared(
    lipsync: LipSync, photo: Path, audio: Path, near: Landmarks, options: dict[str, object]
) -> dict[str, float]:
    """How far the openings of the moving photo are from those of the still one."""
    assert isinstance(lipsync.engine, MeshEngine)
    with tempfile.TemporaryDirectory() as folder:
        seen = []
        for kind in ("none", "full"):
            made = lipsync(photo, audio, Path(folder, f"{kind}.mp4"), photo_motion=kind, **options)
            seen.append(openings(lipsync.engine, made.outfile, near))
    still, moving = seen
    return {
        "r": round(float(np.corrcoef(still, moving)[0, 1]), 4),
        "rms": round(float(np.sqrt(np.mean((still - moving) ** 2))), 3),
        "deviation": round(float(still.std()), 3),
    }


def measure(lipsync: LipSync, photo: Path, name: str, given: argparse.Namespace) -> dict[str, object]:
    """The figures of one photo."""
    options: dict[str, object] = {} if given.yunet is None else {"yunet": given.yunet}
    motion, picture, found = motion_of(lipsync, photo, options)
    begin = time.process_time()
    for number in range(TIMED):
        motion.at(picture, 2 + number / FPS)
    cost = 1000 * (time.process_time() - begin) / TIMED
    figures: dict[str, object] = {"face": name, "size": list(picture.shape[1::-1]), "blinks": motion.blinking}
    figures |= {"cpu_ms": round(cost, 1), "load": round(os.getloadavg()[0], 1)}
    if given.audio is not None:
        figures |= compared(lipsync, photo, given.audio, found, options)
    if given.sheet is not None and motion.blinking:
        cv2.imwrite(str(given.sheet / f"{name}.png"), sheet(motion, picture))
    return figures


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser("benchmarks.photo_motion", __doc__)
    p.add_argument("faces", type=Path, nargs="+", metavar="FACE", help="photos, or videos")
    p.add_argument("--audio", type=Path, help="speech to be said by each")
    p.add_argument("--at", type=int, default=20, help="the frame of a video (default: %(default)s)")
    p.add_argument("--sheet", type=Path, help="existing folder for the frames around a blink")
    p.add_argument("--yunet", type=Path, help="YuNet's model file (.onnx)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = parser().parse_args(argv)

    def job() -> None:
        lipsync, blinking = LipSync.load(), []
        for face in given.faces:
            with tempfile.TemporaryDirectory() as folder:
                photo = Path(folder, "photo.png")
                source = FaceSource(face, Framing())
                cv2.imwrite(str(photo), next(islice(source.frames(), 0 if source.still else given.at, None)))
                try:
                    figures = measure(lipsync, photo, face.stem, given)
                except MediaError as error:
                    print(error)
                    continue
            blinking.append(bool(figures["blinks"]))
            print(json.dumps(figures), flush=True)
        print(f"{sum(blinking)} of {len(blinking)} blink")

    return run_command("benchmarks.photo_motion", job)


if __name__ == "__main__":
    sys.exit(main())
