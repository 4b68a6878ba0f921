"""A stub generator and a stub detector with known outputs, and measurements of the mouth region."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from inference.generator.backends import Backend
from inference.generator.engine import GeneratorEngine
from inference.generator.generation import FaceGenerator
from inference.pipeline import LipSync
from preprocessing.faces.crops import CropGeometry
from preprocessing.faces.face_track import Detection
from preprocessing.media.audio import AudioConfig
from tests.material import BOX
from wav2lip.generator.model import GeneratorConfig

MOUTH = (slice(66, 84), slice(70, 94))  # rows and columns inside the generated region


def loud_mouth(mel: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The unchanged face with a mouth whose brightness follows the loudness; an untrained network would not react."""
    output = faces[:, 3:].copy()
    output[:, :, 58:86, 28:68] = (mel.mean(axis=(1, 2, 3)).reshape(-1, 1, 1, 1) + 4) / 8
    return output


def stub(run: Callable = loud_mouth, kind: str = "box") -> LipSync:
    backend = Backend("stub", torch.device("cpu"), "fp32", run)
    return LipSync(GeneratorEngine(FaceGenerator(backend, GeneratorConfig(), CropGeometry(kind)), AudioConfig()))


def mouth(frame: np.ndarray) -> np.ndarray:
    return frame[MOUTH].astype(float)


def unchanged(result: np.ndarray, source: np.ndarray) -> bool:
    """Whether the mouth is unchanged up to coding error."""
    return bool(np.abs(mouth(result) - mouth(source)).mean() < 4)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


class StubDetector:
    """Detects the face unless the block at the top right is white."""

    def __init__(self) -> None:
        self.frames_seen = 0

    def __call__(self, frames):
        self.frames_seen += len(frames)
        top, bottom, left, right = BOX
        face = Detection(np.array([left, top, right, bottom], np.float32), 0.9)
        return [[] if frame[4:12, -12:-4].mean() > 128 else [face] for frame in frames]
