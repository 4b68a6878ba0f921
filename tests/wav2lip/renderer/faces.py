"""Test faces: the canonical face in a textured frame."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, canonical_face
from wav2lip.renderer.lip_edges import LIPS_BETWEEN
from wav2lip.renderer.target import LOWER, UPPER

SCALE = 2.5


def pose(scale: float = SCALE, x: float = 60.0, y: float = 40.0, yaw: float = 0.0) -> HeadPose:
    turn = np.radians(yaw)
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    return HeadPose(np.array(scale), rotation, np.array([x, y, 0.0]))


def frame(width: int = 480, height: int = 440, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.0)


def opened(by: float) -> np.ndarray:
    """(206, 3) displacement in units that lowers the lower lip by `by`, and the jaw with it."""
    face = canonical_face()
    moved = np.zeros_like(face)
    lip = face[LIPS_OUTER[5], 1]
    below = np.clip((face[:, 1] - lip + 6) / 6, 0, 1) * np.exp(-(((face[:, 0] - 64) / 45) ** 2))
    moved[:, 1] = by * below * (1 - 0.1 * np.clip((face[:, 1] - lip) / 20, 0, 1))
    for ring in (LIPS_INNER, *LIPS_BETWEEN, LIPS_OUTER):
        moved[ring, 1] = 0
        moved[ring[1:10], 1] = by
    return moved


def shut_face() -> np.ndarray:
    """The canonical face with its lips 0.3 units apart."""
    face = canonical_face().copy()
    face[UPPER] = face[LOWER] - (0, 0.3, 0)
    return face
