"""A checkpoint: one safetensors file that says what it is and needs no other file."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from preprocessing.errors import UsageError

FORMAT = "wav2lip-checkpoint"
VERSION = "1"
FIELDS = {"kind": str, "config": dict, "audio": dict, "crop": dict, "step": int}  # the header's, with their types


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights with everything that is needed to use them.

    The dictionaries hold what JSON holds: a tuple comes back as a list.

    Attributes:
        kind: which network it is, e.g. "generator".
        config: the arguments that build the network.
        audio: the front-end's configuration it was trained with.
        crop: the geometry of its face crops.
        weights: the state dict.
        step: training steps done.
    """

    kind: str
    config: dict[str, Any]
    audio: dict[str, Any]
    crop: dict[str, Any]
    weights: dict[str, Tensor]
    step: int = 0

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Writes the file whole or not at all; `half` stores floating weights as 16-bit floats.

        Raises:
            UsageError: the folder is missing, or a weight does not fit into 16 bits.
            OSError: the file cannot be written.
        """
        header = json.dumps({name: getattr(self, name) for name in FIELDS}, allow_nan=False)
        weights = {key: _stored(key, weight, half) for key, weight in self.weights.items()}
        data = save(weights, metadata={"format": FORMAT, "version": VERSION, "header": header})
        _write_atomic(Path(path), data)

    @classmethod
    def load(cls, path: str | Path, kind: str | None = None) -> Checkpoint:
        """Opens a checkpoint; floating weights come as float32, on the CPU.

        Args:
            path: the file.
            kind: the kind that is expected, if only one will do.

        Raises:
            UsageError: the file is missing, damaged, no checkpoint of ours, of a foreign version or another kind.
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
        try:
            with safe_open(path, framework="pt") as file:
                header = _header(path, file.metadata() or {}, kind)
                weights = {key: _to_float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 - no mapping
        except SafetensorError as error:
            raise UsageError(f"checkpoint {path} is truncated or no safetensors file ({error})") from error
        except OSError as error:
            raise UsageError(f"checkpoint {path} cannot be read ({error})") from error
        return cls(weights=weights, **header)


def _to_float32(weight: Tensor) -> Tensor:
    return weight.float() if weight.is_floating_point() else weight


def _stored(key: str, weight: Tensor, half: bool) -> Tensor:
    """A copy on the CPU that shares no memory: the format refuses weights that do."""
    copy = weight.detach().to("cpu", copy=True).contiguous()
    if not (half and copy.is_floating_point()):
        return copy
    largest = torch.finfo(torch.float16).max
    if (copy.abs() > largest).any():
        raise UsageError(f"{key} holds values beyond {largest:.0f} and cannot be stored in 16 bits: save without half")
    return copy.half()


def _write_atomic(path: Path, data: bytes) -> None:
    """Writes part the final name and renames, so that no reader ever meets half a file."""
    if not path.parent.is_dir():
        raise UsageError(f"cannot save {path}: the folder {path.parent} does not exist")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a crash after the rename must not leave an empty file under the final name
        os.replace(part, path)


def _header(path: Path, metadata: dict[str, str], kind: str | None) -> dict[str, Any]:
    """The checked header: `FIELDS` by name."""
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{path} is a safetensors file without the header of a {FORMAT}")
    if metadata.get("version") != VERSION:
        raise UsageError(f"{path} has version {metadata.get('version')} of the format; this program reads {VERSION}")
    try:
        header = json.loads(metadata.get("header", ""))
    except json.JSONDecodeError as error:
        raise UsageError(f"the header of checkpoint {path} is damaged ({error})") from error
    if not isinstance(header, dict) or any(not isinstance(header.get(name), type_) for name, type_ in FIELDS.items()):
        raise UsageError(f"the header of checkpoint {path} is damaged: it needs {', '.join(FIELDS)}")
    if kind is not None and header["kind"] != kind:
        raise UsageError(f"checkpoint {path} holds a network of kind {header['kind']!r}, where {kind!r} is needed")
    return {name: header[name] for name in FIELDS}
