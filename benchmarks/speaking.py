"""Generators that speak clips, at their own size or as they are used, and what stands beside them in every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.metrics.picture import MASK
from inference.generator.backends import load_backend
from inference.generator.generation import FaceCrop, FaceGenerator, ReferenceSelector
from preprocessing.dataset.clips import Clip
from preprocessing.dataset.windows import CropRegion, face_window, mel_windows
from preprocessing.errors import display_path
from preprocessing.media.audio import AudioConfig, rest_in_silence
from wav2lip.generator.checkpoints import EMBEDDED, load_generator
from wav2lip.generator.unet import AnyGenerator

SIDE = 128  # pixels at which every system is measured
BATCH = 16
SILENT = -AudioConfig().max_abs_value


@dataclass
class Footage:
    """A clip's pictures as points crops of any size, each size cut once."""

    clip: Clip
    _cut: dict[int, np.ndarray] = field(default_factory=dict)

    def faces(self, size: int = SIDE) -> np.ndarray:
        """(N, size, size, 3) uint8 BGR, all frames."""
        if size not in self._cut:
            self._cut[size] = face_window(self.clip, CropRegion(size=size), 0, self.clip.frames)
        return self._cut[size]


def sounds(clip: Clip, frames: Sequence[int] | np.ndarray) -> np.ndarray:
    """(N, 1, 80, 16) float32 of a clip's frames as inference hears them: where nobody speaks, silence."""
    return mel_windows(rest_in_silence(clip.mel, clip.speech), frames)


def silence(frames: int) -> np.ndarray:
    """(N, 1, 80, 16) float32 of so many silent frames."""
    return np.full((frames, 1, 80, 16), SILENT, np.float32)


@dataclass(frozen=True)
class Cost:
    """A network's parameters, 10^9 multiplications and additions for one frame, and 10^6 bytes in 16-bit floats."""

    parameters: int
    gmac: float
    megabytes: float


def cost(network: AnyGenerator) -> Cost:
    """Counts; convolutions and matrix products only, as papers count."""
    size = network.config.size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, size, size))
    stored = sum(tensor.numel() for tensor in network.state_dict().values() if tensor.is_floating_point())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops() / 2e9, 2 * stored / 1e6)


@dataclass
class Model:
    """A generator under a name for the tables."""

    name: str
    generator: FaceGenerator
    cost: Cost

    @classmethod
    def load(cls, path: Path | None = None, device: str = "auto", backend: str = "auto") -> Model:
        """Opens a checkpoint, None for the embedded one.

        Raises:
            MediaError: the file is missing or no generator.
            ValueError: it is made for other crops than those of clips; or no such device or backend.
        """
        network, audio, geometry = load_generator(path)
        if geometry.kind != "points":
            raise ValueError(
                f"{display_path(path or EMBEDDED)} speaks crops of the kind {geometry.kind!r}, not 'points'"
            )
        AudioConfig().require(audio, display_path(path or EMBEDDED))
        name = "embedded" if path is None else str(path)
        engine = load_backend(network, backend, device)
        return cls(name, FaceGenerator(engine, network.config, geometry), cost(network))

    def reconstruct(self, footage: Footage, frames: np.ndarray, reference: int, mels: np.ndarray) -> np.ndarray:
        """Frames (N,) made of one reference frame at the network's own size, then brought to (N, SIDE, SIDE, 3)."""
        pictures = footage.faces(self.generator.config.size)
        held = _cut(pictures[reference], pictures[reference])
        cuts = [_cut(pictures[frame], pictures[frame]) for frame in frames]
        return self._finish(self.generator.generate(cuts, [held] * len(cuts), mels, BATCH), footage.faces()[frames])

    def speak(self, footage: Footage, mels: np.ndarray, start: int = 0) -> np.ndarray:
        """N frames from `start` on with N windows of sound, as inference makes them to be blended: (N, SIDE, SIDE, 3).

        `ReferenceSelector` chooses whose pixels each frame is made of, and a flow moves pixels of the full SIDE.
        """
        config = self.generator.config
        pictures, fine = (footage.faces(size)[start : start + len(mels)] for size in (config.size, SIDE))
        cuts = [_cut(small, large) for small, large in zip(pictures, fine, strict=True)]
        choice, made = ReferenceSelector(config.mask_row, SILENT, hold=config.output == "warp"), []
        references = [choice.reference(cut, mel, 0) for cut, mel in zip(cuts, mels, strict=True)]
        for first in range(0, len(cuts), BATCH):
            some = slice(first, first + BATCH)
            made += self.generator.generate(cuts[some], references[some], mels[some], BATCH)
        return self._finish(made, fine)

    def _finish(self, made: Sequence[np.ndarray], real: np.ndarray) -> np.ndarray:
        """To uint8 at SIDE, under the real frames' own upper parts."""
        done = real.copy()
        top = round(self.generator.config.mask_row * SIDE / self.generator.config.size)
        for target, picture in zip(done, made, strict=True):
            whole = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            target[top:] = np.clip(np.rint(whole[top:]), 0, 255)
        return done


def _cut(pixels: np.ndarray, fine: np.ndarray) -> FaceCrop:
    """The crop as it is: where it lies in its picture is of no interest here."""
    return FaceCrop(pixels, np.eye(2, 3), fine, np.eye(2, 3))


def held(pictures: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """Pictures (N, S, S, 3) whose masked rows are all those of one other, (S, S, 3)."""
    done, top = pictures.copy(), round(MASK * pictures.shape[1])
    done[:, top:] = mouth[top:]
    return done


def swaps(clips: Sequence[Clip], frames: Sequence[int], least_speech: float = 0.5) -> list[int]:
    """For each clip the number of one of another person whose sound it is given, always the same.

    Of those that are long enough and in which there is speech enough, the one that has been taken least often; where
    there is none, the longest.

    Args:
        frames: how many of each clip's are spoken.
        least_speech: share of the sound.

    Raises:
        ValueError: there are not two people.
    """
    if len({clip.speaker for clip in clips}) < 2:
        raise ValueError("a sound of somebody else needs clips of two people, and these are all of one")
    talkative = [clip.speech.mean() >= least_speech for clip in clips]
    taken, chosen = [0] * len(clips), []
    for index, clip in enumerate(clips):
        others = [k for k, other in enumerate(clips) if other.speaker != clip.speaker]
        fit = [k for k in others if talkative[k] and clips[k].frames >= frames[index]]
        if not fit:
            fit = [max(others, key=lambda k: clips[k].frames)]
        chosen.append(min(fit, key=lambda k: (taken[k], (k - index) % len(clips))))
        taken[chosen[-1]] += 1
    return chosen
