"""MediaPipe FaceMesh's points of raw frames: `PYTHON mediapipe_mesh.py WIDTH HEIGHT POINTS.npz < FRAMES`.

Runs in an environment of its own (pip install mediapipe==0.10.21 "numpy<2") and imports nothing of ours. FRAMES are
uint8 RGB, one after the other. POINTS.npz receives `points`, (N, 478, 3) float32 in pixels, and `found`, (N,) bool.
With --version it prints the installed version and ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    os.environ["GLOG_minloglevel"] = "3"  # noqa: SIM112  its name
    import mediapipe

    if list(argv) == ["--version"]:
        print(mediapipe.__version__)
        return
    width, height = int(argv[0]), int(argv[1])
    points, found = [], []
    with mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=False, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.4
    ) as mesh:
        while len(data := sys.stdin.buffer.read(3 * width * height)) == 3 * width * height:
            faces = mesh.process(np.frombuffer(data, np.uint8).reshape(height, width, 3)).multi_face_landmarks
            found.append(bool(faces))
            points.append(pixels(faces[0].landmark, width, height) if faces else np.zeros((478, 3), np.float32))
    with open(argv[2], "wb") as file:
        np.savez(file, points=np.array(points, np.float32).reshape(-1, 478, 3), found=np.array(found, bool))


def pixels(landmarks: Sequence[Any], width: int, height: int) -> np.ndarray:
    """(478, 3) float32 from shares of the frame's sides."""
    return np.array([(one.x * width, one.y * height, one.z * width) for one in landmarks], np.float32)


if __name__ == "__main__":
    main(sys.argv[1:])
