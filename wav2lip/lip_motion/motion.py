"""Lip motion inference: audio samples → displacements of the lower face at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preprocessing.compiled_networks import Network, load_network, torch_network
from preprocessing.errors import UsageError
from preprocessing.media.audio import release_pages
from wav2lip.lip_motion.checkpoint import TrainedMotion, read_motion_parts
from wav2lip.lip_motion.data.clips import FPS
from wav2lip.lip_motion.motion_config import ROWS_PER_FRAME, MotionConfig
from wav2lip.lip_motion.rest_map import RestMap
from wav2lip.lip_motion.shape_space import ShapeSpace
from wav2lip.lip_motion.silence import rest_in_silence, speech_frames, talking_share
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE, SpeechEncoder, open_encoder, row_count

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = Path(__file__).parents[1] / "weights" / "lip_motion.safetensors"
EDGE = SAMPLE_RATE // 2  # samples of mirror padding on both sides for the encoder
EDGE_ROWS = row_count(EDGE) - 1
FADE_FRAMES = 6  # frames of fade to rest after the end of the audio
BLOCK = 250  # frames per inference block: 10 s; 40 s take a quarter less time and 45 MB more
REST_GAP = 0.1  # units between the inner lips at rest, for an unknown person


@dataclass(frozen=True)
class MotionRange:
    """How far one person's mouth moves.

    Attributes:
        gain: how much the face moves in speech (see `shape_space.gain_of`), units; None for the median.
        rest_gap: gap between the inner lips at rest, units.
    """

    gain: float | None = None
    rest_gap: float = REST_GAP


@dataclass(frozen=True)
class HeardSpeech:
    """What the networks hear in a recording, whoever speaks it, at 25 fps.

    Attributes:
        coefficients: (T, K) float32 in the shape space.
        logits: (T,) of closed lips.
        talking: (T,) share of speech, see `talking_share`.
    """

    coefficients: np.ndarray
    logits: np.ndarray
    talking: np.ndarray


@dataclass(frozen=True)
class LipMotion:
    """The lip motion of one recording, at 25 fps.

    Attributes:
        coefficients: (T, K) float32 in the shape space, row k at k / 25 s.
        space: the shape space.
        scale: gain times strength.
        rest_gap: gap between the person's inner lips at rest, units.
    """

    coefficients: np.ndarray
    space: ShapeSpace
    scale: float
    rest_gap: float

    def __len__(self) -> int:
        """Number of frames at 25 fps, the first at 0 s; after the last the face stays at rest."""
        return len(self.coefficients)

    def at(self, time: Fraction | float) -> np.ndarray:
        """(P, 3) float32 displacement from rest at `time` seconds, in canonical units, rows `lower_face()`."""
        return self.at_times([time])[0]

    def at_times(self, times: Sequence[Fraction | float] | np.ndarray) -> np.ndarray:
        """(N, P, 3) float32 displacements at N times in seconds; linear between frames, constant beyond the ends."""
        return self.space.displacement(self.coefficients_at(times), self.scale)

    def opening(self, times: Sequence[Fraction | float] | np.ndarray) -> np.ndarray:
        """(N,) gap between the inner lips' midpoints at N times in seconds, units, 0 where they are closed."""
        gap = self.coefficients_at(times) @ self.space.opening * self.scale + self.rest_gap
        return np.maximum(gap, 0)

    def coefficients_at(self, times: Sequence[Fraction | float] | np.ndarray) -> np.ndarray:
        """(N, K) float32 coefficients of the shape space at N times in seconds."""
        position = np.clip([float(time * FPS) for time in times], 0, len(self) - 1)
        left = np.minimum(position.astype(int), max(len(self) - 2, 0))
        right, share = np.minimum(left + 1, len(self) - 1), (position - left)[:, None].astype(np.float32)
        return self.coefficients[left] * (1 - share) + self.coefficients[right] * share


@dataclass(frozen=True)
class LipMotionModel:
    """A trained lip motion model with its speech encoder, for inference.

    Attributes:
        config: architecture of the network.
        run: (1, R, D) float32 rows of features → (1, N, K) coefficients and (1, N) closure logits.
        space: coefficients → displacements.
        rest: maps a face to its rest shape; None if it was not fitted.
        encoder: samples → features.
    """

    config: MotionConfig
    run: Network
    space: ShapeSpace
    rest: RestMap | None
    encoder: SpeechEncoder

    @classmethod
    def load(cls, path: Path | None = None) -> LipMotionModel:
        """Loads a checkpoint, by default the bundled one.

        Raises:
            UsageError: the file or the speech encoder's weights are missing or damaged.
        """
        source = path or WEIGHTS
        parts, folder = read_motion_parts(source), Path(__file__).parent
        code = (folder / "model.py", folder / "motion_config.py")
        shape = (1, -1, parts.config.features)
        run = load_network("lip-motion", (source, *code), lambda: motion_module(TrainedMotion.load(source)), [shape])
        return cls(parts.config, run, parts.space, parts.rest, open_encoder(parts.encoder))

    @classmethod
    def of(cls, trained: TrainedMotion, encoder: SpeechEncoder) -> LipMotionModel:
        """A model just trained, run by torch."""
        run = torch_network(lambda: motion_module(trained))
        return cls(trained.network.config, run, trained.space, trained.rest, encoder)

    @property
    def gain(self) -> float:
        """Gain of an unknown person, units: the median of the people in training."""
        return self.space.gain

    def displacements(
        self, samples: np.ndarray, *, gain: float | None = None, strength: float = 1.0, rest_gap: float = REST_GAP
    ) -> LipMotion:  # fmt: skip
        """Predicts the lip motion of speech: `motion` of what `hear` hears in (n,) samples."""
        return self.motion(self.hear(samples), gain=gain, strength=strength, rest_gap=rest_gap)

    def hear(self, samples: np.ndarray) -> HeardSpeech:
        """Runs the networks on speech.

        Apart from the result, K coefficients per frame, memory use does not grow with the length of the audio.

        Args:
            samples: (n,) 16 kHz mono, float, nominally -1 to 1, or int16 (such as a memory map from `spool_audio`).

        Raises:
            UsageError: there are no samples.
        """
        if not len(samples):
            raise UsageError("there are no samples to hear: they must not be empty")
        frames = len(samples) * FPS // SAMPLE_RATE + 1
        blocks = [self._block(samples, first, min(first + BLOCK, frames)) for first in range(0, frames, BLOCK)]
        self.encoder.release_memory()
        coefficients, logits = (np.concatenate(part) for part in zip(*blocks, strict=True))
        return HeardSpeech(coefficients, logits, talking_share(speech_frames(samples))[:frames])

    def motion(
        self, heard: HeardSpeech, *, gain: float | None = None, strength: float = 1.0, rest_gap: float = REST_GAP
    ) -> LipMotion:  # fmt: skip
        """One person's lip motion with what was heard.

        Args:
            gain: how much the person's face moves in speech (see `shape_space.gain_of`), units; None for the median.
            strength: factor on the motion; closed lips stay closed.
            rest_gap: gap between the person's inner lips at rest, units.

        Raises:
            UsageError: gain or strength is not positive.
        """
        scale = (self.gain if gain is None else gain) * strength
        if not scale > 0:
            raise UsageError(f"gain and strength must be above 0, not {gain}, {strength}")
        closed = rest_in_silence(heard.coefficients, heard.logits, heard.talking, self.space, rest_gap / scale)
        fading = closed[-1] * np.linspace(1, 0, FADE_FRAMES + 1, dtype=np.float32)[1:, None]
        return LipMotion(np.concatenate([closed, fading]), self.space, scale, rest_gap)

    def _block(self, samples: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Predicts coefficients and closure logits of frames first .. last - 1."""
        config, padded = self.config, _MirrorPadded(samples)
        start, stop = ROWS_PER_FRAME * (first - config.before) - 1, ROWS_PER_FRAME * (last + config.after) + 1
        position = np.clip(np.arange(start, stop) + EDGE_ROWS, 0, row_count(len(padded)) - 1)
        features = self.encoder.rows(padded, int(position[0]), int(position[-1]) + 1)[position - position[0]]
        coefficients, logits = self.run(features[None])
        release_pages(samples)
        return coefficients[0], logits[0]


def motion_module(trained: TrainedMotion) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network and example features, for `load_network`."""
    import torch

    config = trained.network.config
    rows = ROWS_PER_FRAME * (config.before + 50 + config.after) + 2
    return trained.network, (torch.zeros(1, rows, config.features),)


class _MirrorPadded:
    """Samples padded by reflection on both sides, so that no feature row sees where they begin or end.

    Sample `EDGE` is the first of the audio; slices are read on demand.
    """

    def __init__(self, samples: np.ndarray) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples) + 2 * EDGE

    def __getitem__(self, piece: slice) -> np.ndarray:
        start, stop, _ = piece.indices(len(self))
        end = len(self._samples) - 1
        position = np.arange(start, stop) - EDGE
        if start - EDGE >= 0 and stop - EDGE <= end + 1:
            return self._samples[start - EDGE : stop - EDGE]
        return self._samples[np.abs((position + end) % max(2 * end, 1) - end)]
