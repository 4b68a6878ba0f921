"""Checkpoints: self-contained safetensors files."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from preprocessing.errors import UsageError
from training.checkpoint_header import FIELDS, FORMAT, VERSION, open_checkpoint, require_finite


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights and everything needed to use them.

    The dictionaries are stored as JSON, so tuples come back as lists.

    Attributes:
        kind: the kind of network, e.g. "generator".
        config: constructor arguments of the network.
        audio: configuration of the audio front-end used in training.
        crop: geometry of the face crops.
        weights: the state dict.
        step: number of training steps.
    """

    kind: str
    config: dict[str, Any]
    audio: dict[str, Any]
    crop: dict[str, Any]
    weights: dict[str, Tensor]
    step: int = 0

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Writes the file atomically; `half` stores floating-point weights as float16.

        Raises:
            UsageError: the folder does not exist, or a weight overflows float16.
            OSError: the file cannot be written.
        """
        header = json.dumps({name: getattr(self, name) for name in FIELDS}, allow_nan=False)
        weights = {key: _stored(key, weight, half) for key, weight in self.weights.items()}
        data = save(weights, metadata={"format": FORMAT, "version": VERSION, "header": header})
        _write_atomic(Path(path), data)

    @classmethod
    def load(cls, path: str | Path, kind: str | None = None) -> Checkpoint:
        """Loads a checkpoint; floating-point weights are float32, on the CPU.

        Args:
            path: the file.
            kind: the required kind, None for any.

        Raises:
            UsageError: the file is missing, damaged, not a checkpoint, of another version or kind, or its weights
                are not finite.
        """
        with open_checkpoint(path, kind, "pt") as (header, file):
            names = file.keys()
            weights = {name: _checked(path, name, file.get_tensor(name)) for name in names}
        return cls(weights=weights, **header)


def _checked(path: str | Path, name: str, weight: Tensor) -> Tensor:
    """The weight as float32, if it is finite."""
    if not weight.is_floating_point():
        return weight
    require_finite(path, name, bool(torch.isfinite(weight).all()))
    return weight.float()


def _stored(key: str, weight: Tensor, half: bool) -> Tensor:
    """A CPU copy with its own memory: safetensors rejects tensors that share memory."""
    copy = weight.detach().to("cpu", copy=True).contiguous()
    if not (half and copy.is_floating_point()):
        return copy
    largest = torch.finfo(torch.float16).max
    if (copy.abs() > largest).any():
        raise UsageError(f"{key} holds values beyond {largest:.0f} and does not fit in float16: save without half")
    return copy.half()


def _write_atomic(path: Path, data: bytes) -> None:
    """Writes to a temporary file and renames it, so readers never see a partial file."""
    if not path.parent.is_dir():
        raise UsageError(f"cannot save {path}: the folder {path.parent} does not exist")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a crash after the rename must not leave an empty file under the final name
        os.replace(part, path)
