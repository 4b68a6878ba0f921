"""The checkpoint of a trained lip motion model: network, shape space and rest map."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.checkpoint_header import read_arrays
from wav2lip.lip_motion.motion_config import MotionConfig
from wav2lip.lip_motion.rest_map import RestMap
from wav2lip.lip_motion.shape_space import ShapeSpace
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE, EncoderName

if TYPE_CHECKING:  # importing torch takes two seconds; the parts for inference do without
    from wav2lip.lip_motion.model import LipMotionNet

KIND = "lip-motion"
CANONICAL = {"kind": "canonical face", "eyes": 42}


@dataclass(frozen=True)
class TrainedMotion:
    """A trained lip motion model.

    Attributes:
        encoder: the speech encoder whose features the network takes.
        network: features → coefficients and closure.
        space: coefficients → displacements.
        rest: maps a face to its rest shape; None if it was not fitted.
        about: training data statistics for the header (people, repaired offsets, ...); JSON.
        step: number of training steps.
    """

    encoder: EncoderName
    network: LipMotionNet
    space: ShapeSpace
    rest: RestMap | None = None
    about: dict[str, Any] = field(default_factory=dict)
    step: int = 0

    def save(self, path: Path, *, half: bool = False) -> None:
        """Writes the checkpoint, as 16-bit floats if `half`."""
        import torch

        from training.checkpoint import Checkpoint

        weights = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        weights |= {"space.basis": torch.from_numpy(self.space.basis)}
        weights |= {"space.deviations": torch.from_numpy(self.space.deviations)}
        if self.rest is not None:
            weights |= {f"rest.{key}": torch.from_numpy(value) for key, value in self.rest.arrays().items()}
        config = {
            "encoder": self.encoder,
            "network": asdict(self.network.config),
            "gain": self.space.gain,
            "about": self.about,
        }
        Checkpoint(KIND, config, {"sample_rate": SAMPLE_RATE}, CANONICAL, weights, self.step).save(path, half=half)

    @classmethod
    def load(cls, path: Path) -> TrainedMotion:
        """Loads a checkpoint.

        Raises:
            UsageError: the file is missing, damaged, or a checkpoint of another network.
        """
        from training.checkpoint import Checkpoint
        from wav2lip.lip_motion.model import LipMotionNet

        weights, parts = Checkpoint.load(path, KIND).weights, read_motion_parts(path)
        network, start = LipMotionNet(parts.config), "network."
        network.load_state_dict({key[len(start) :]: value for key, value in weights.items() if key.startswith(start)})
        return cls(parts.encoder, network.eval(), parts.space, parts.rest, parts.about, parts.step)


@dataclass(frozen=True)
class MotionParts:
    """What a checkpoint has besides the network's weights; see `TrainedMotion`."""

    encoder: EncoderName
    config: MotionConfig
    space: ShapeSpace
    rest: RestMap | None
    about: dict[str, Any]
    step: int


def read_motion_parts(path: Path) -> MotionParts:
    """Reads these parts, without torch.

    Raises:
        UsageError: the file is missing, damaged, or a checkpoint of another network.
    """
    header, arrays = read_arrays(path, KIND, ("space.", "rest."))
    parts: dict[str, dict[str, np.ndarray]] = {"space": {}, "rest": {}}
    for key, value in arrays.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    config = header["config"]
    space = ShapeSpace(parts["space"]["basis"], parts["space"]["deviations"], config["gain"])
    rest = RestMap(**parts["rest"]) if parts["rest"] else None
    network = MotionConfig(**config["network"])
    return MotionParts(config["encoder"], network, space, rest, config["about"], header["step"])
