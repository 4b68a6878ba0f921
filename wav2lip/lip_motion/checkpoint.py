"""The checkpoint of a trained lip motion model: network, shape space and rest map."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from training.checkpoint import Checkpoint
from wav2lip.lip_motion.model import LipMotionNet, MotionConfig
from wav2lip.lip_motion.rest_map import RestMap
from wav2lip.lip_motion.shape_space import ShapeSpace
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE, EncoderName

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
        checkpoint = Checkpoint.load(path, KIND)
        parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "space": {}, "rest": {}}
        for key, value in checkpoint.weights.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        config = checkpoint.config
        network = LipMotionNet(MotionConfig(**config["network"]))
        network.load_state_dict(parts["network"])
        space = ShapeSpace(parts["space"]["basis"].numpy(), parts["space"]["deviations"].numpy(), config["gain"])
        rest = RestMap(**{key: value.numpy() for key, value in parts["rest"].items()}) if parts["rest"] else None
        return cls(config["encoder"], network.eval(), space, rest, config["about"], checkpoint.step)
