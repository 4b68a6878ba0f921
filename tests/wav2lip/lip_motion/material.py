"""Synthetic talking heads whose lips follow the first of a few speech features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, MESH_INDICES, canonical_face, lower_face
from wav2lip.lip_motion.data.clips import MotionClip
from wav2lip.lip_motion.data.targets import Displacements

FEATURES = 6
LOWER_INNER = np.isin(lower_face(), LIPS_INNER[1:10])  # the lower lip's inner rim


def closed_face() -> np.ndarray:
    """(206, 3) canonical face with closed lips."""
    face = canonical_face().copy()
    face[LIPS_INNER[1:10], 1] = face[LIPS_INNER[19:10:-1], 1] + 0.1
    return face


def opened(amount: np.ndarray) -> np.ndarray:
    """(T,) units → (T, P, 3) displacement: lowers the inner rim of the lower lip, moves the corners inwards."""
    moved = np.zeros((len(amount), len(lower_face()), 3), np.float32)
    moved[:, LOWER_INNER, 1] = amount[:, None]
    moved[:, :, 0] -= 0.1 * amount[:, None] * np.sign(canonical_face()[lower_face(), 0] - 64)
    return moved


def talk(name: str, frames: int = 120, speaker: str = "a", split: str = "train", late: float = 0.0) -> MotionClip:
    """A clip whose lips open where the first feature is high; `late`: frames by which the video is late."""
    rng = np.random.default_rng(abs(hash_of(name)))
    curve = np.convolve(rng.standard_normal(2 * frames + 101), np.hanning(13), "valid")[: 2 * frames + 61]
    features = rng.standard_normal((2 * frames + 1, FEATURES)).astype(np.float32)
    features[:, 0] = curve[30 : 30 + len(features)]
    times = np.arange(frames) / 25
    shifted = np.interp(np.arange(frames) - late, np.arange(-15, frames + 15), curve[::2][: frames + 30])
    amount = np.maximum(shifted, 0) * 2
    rest = closed_face().astype(np.float32)
    motion = Displacements(opened(amount), np.ones(frames, bool), times, rest)
    return MotionClip(name, speaker, split, motion, np.ones(frames, bool), {"whisper": features, "mel": features})


def hash_of(name: str) -> int:
    """A hash of the name that is the same in every process."""
    return int.from_bytes(name.encode()[-4:], "little")


def write_talks(folder: Path, seconds: int = 5) -> Path:
    """Writes clips of three training people and one held-out person."""
    folder.mkdir()
    for name, split in (("ann", "train"), ("bob", "train"), ("cleo", "train"), ("dan", "val")):
        talk(f"{name}__1", seconds * 25, name, split).save(folder / f"{name}__1.safetensors")
    return folder


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) rotation from degrees."""
    about = []
    for axis, angle in ((1, yaw), (0, pitch), (2, roll)):
        (c, s), (i, j) = (np.cos(np.radians(angle)), np.sin(np.radians(angle))), [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = c, c, -s, s
        about.append(turn)
    return about[0] @ about[1] @ about[2]


def turning_head(amount: np.ndarray) -> np.ndarray:
    """(T,) units of opening → (T, 206, 3) pixels of a head that turns, nods and moves closer and away."""
    shapes = np.repeat(closed_face()[None], len(amount), axis=0)
    shapes[:, lower_face()] += opened(amount)
    assert shapes.shape[1] == len(MESH_INDICES)
    frames = []
    for index, shape in enumerate(shapes):
        turn = rotation(20 * np.sin(index / 9), 8 * np.sin(index / 7), 5 * np.sin(index / 5))
        scale = 1.5 + 0.2 * np.sin(index / 11)
        frames.append(scale * shape @ turn.T + [100 + index, 80 + 0.5 * index, 3])
    return np.stack(frames)
