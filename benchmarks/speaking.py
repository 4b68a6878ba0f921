"""Generators applied to clips, as in training or as in inference, and the baselines they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.metrics.image_quality import MASK_TOP
from inference.generator.backends import load_backend
from inference.generator.generation import FaceCrop, FaceGenerator, ReferenceSelector
from preprocessing.dataset.clips import Clip
from preprocessing.dataset.windows import CropRegion, face_window, mel_windows
from preprocessing.errors import display_path
from preprocessing.media.audio import AudioConfig
from preprocessing.media.speech_activity import rest_in_silence
from wav2lip.generator.checkpoints import load_generator
from wav2lip.generator.model import Generator

SIDE = 128  # pixels, resolution at which every system is measured
BATCH = 16
SILENT = -AudioConfig().max_abs_value


@dataclass
class Footage:
    """A clip's frames as points crops of any size, each size cached."""

    clip: Clip
    _cut: dict[int, np.ndarray] = field(default_factory=dict)

    def faces(self, size: int = SIDE) -> np.ndarray:
        """(N, size, size, 3) uint8 BGR, all frames."""
        if size not in self._cut:
            self._cut[size] = face_window(self.clip, CropRegion(size=size), 0, self.clip.frames)
        return self._cut[size]


def mel_inputs(clip: Clip, frames: Sequence[int] | np.ndarray) -> np.ndarray:
    """Mel windows (N, 1, 80, 16) float32 of a clip's frames as in inference: silence where nobody speaks."""
    return mel_windows(rest_in_silence(clip.mel, clip.speech), frames)


def silent_mels(frames: int) -> np.ndarray:
    """Mel windows (N, 1, 80, 16) float32 of silent frames."""
    return np.full((frames, 1, 80, 16), SILENT, np.float32)


@dataclass(frozen=True)
class Cost:
    """Parameters, GMAC (10^9 multiply-adds) per frame, and size in 10^6 bytes at fp16."""

    parameters: int
    gmac: float
    megabytes: float


def cost(network: Generator) -> Cost:
    """Count the cost of a network; convolutions and matrix products only, as is customary."""
    size = network.config.size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, size, size))
    stored = sum(tensor.numel() for tensor in network.state_dict().values() if tensor.is_floating_point())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops() / 2e9, 2 * stored / 1e6)


@dataclass
class Model:
    """A generator with a name for the tables."""

    name: str
    generator: FaceGenerator
    cost: Cost

    @classmethod
    def load(cls, path: Path, device: str = "auto", backend: str = "auto") -> Model:
        """Load a checkpoint.

        Raises:
            MediaError: the file is missing or not a generator.
            ValueError: the generator uses another crop geometry than clips; unknown device or backend.
        """
        network, audio, geometry = load_generator(path)
        if geometry.kind != "points":
            raise ValueError(f"{display_path(path)} uses crops of the kind {geometry.kind!r}, not 'points'")
        AudioConfig().require(audio, display_path(path))
        engine = load_backend(network, backend, device)
        return cls(str(path), FaceGenerator(engine, network.config, geometry), cost(network))

    def reconstruct(self, footage: Footage, frames: np.ndarray, reference: int, mels: np.ndarray) -> np.ndarray:
        """Generate frames (N,) from one reference frame at the network's resolution, resized to (N, SIDE, SIDE, 3)."""
        faces = footage.faces(self.generator.config.size)
        shared = _as_crop(faces[reference])
        crops = [_as_crop(faces[frame]) for frame in frames]
        return self._finish(self.generator.generate(crops, [shared] * len(crops), mels, BATCH), footage.faces()[frames])

    def speak(self, footage: Footage, mels: np.ndarray, start: int = 0) -> np.ndarray:
        """Generate N frames from `start` on with N mel windows, as inference does before blending: (N, SIDE, SIDE, 3).

        `ReferenceSelector` chooses the reference of each frame.
        """
        config = self.generator.config
        small, fine = (footage.faces(size)[start : start + len(mels)] for size in (config.size, SIDE))
        crops = [_as_crop(pixels) for pixels in small]
        selector, made = ReferenceSelector(config.mask_row, SILENT), []
        references = [selector.reference(crop, mel, 0) for crop, mel in zip(crops, mels, strict=True)]
        for first in range(0, len(crops), BATCH):
            batch = slice(first, first + BATCH)
            made += self.generator.generate(crops[batch], references[batch], mels[batch], BATCH)
        return self._finish(made, fine)

    def _finish(self, made: Sequence[np.ndarray], real: np.ndarray) -> np.ndarray:
        """Convert to uint8 at SIDE and keep the upper part of the real frames."""
        done = real.copy()
        top = round(self.generator.config.mask_row * SIDE / self.generator.config.size)
        for target, face in zip(done, made, strict=True):
            resized = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            target[top:] = np.clip(np.rint(resized[top:]), 0, 255)
        return done


def _as_crop(pixels: np.ndarray) -> FaceCrop:
    """Wrap pixels as a crop; its position in the frame is irrelevant here."""
    return FaceCrop(pixels, np.eye(2, 3))


def freeze_mouth(faces: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """Faces (N, S, S, 3) with all masked rows replaced by those of one face, (S, S, 3)."""
    done, top = faces.copy(), round(MASK_TOP * faces.shape[1])
    done[:, top:] = mouth[top:]
    return done


def assign_donors(clips: Sequence[Clip], frames: Sequence[int], min_speech: float = 0.5) -> list[int]:
    """For each clip, the index of a clip of another person that provides its swapped audio; deterministic.

    Among those that are long enough and contain enough speech, the one used least so far; if there is none, the
    longest.

    Args:
        frames: number of frames needed for each clip.
        min_speech: required share of speech in the audio.

    Raises:
        ValueError: all clips are of one person.
    """
    if len({clip.speaker for clip in clips}) < 2:
        raise ValueError("swapped audio requires clips of two people, but all are of one")
    enough_speech = [clip.speech.mean() >= min_speech for clip in clips]
    used, chosen = [0] * len(clips), []
    for index, clip in enumerate(clips):
        others = [k for k, other in enumerate(clips) if other.speaker != clip.speaker]
        suitable = [k for k in others if enough_speech[k] and clips[k].frames >= frames[index]]
        if not suitable:
            suitable = [max(others, key=lambda k: clips[k].frames)]
        chosen.append(min(suitable, key=lambda k: (used[k], (k - index) % len(clips))))
        used[chosen[-1]] += 1
    return chosen
