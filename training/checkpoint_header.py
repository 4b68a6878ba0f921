"""Reads checkpoints without torch: the header, and weights as NumPy arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from preprocessing.errors import UsageError

FORMAT = "wav2lip-checkpoint"
VERSION = "1"
FIELDS = {"kind": str, "config": dict, "audio": dict, "crop": dict, "step": int}  # header fields and their types


@contextmanager
def open_checkpoint(path: str | Path, kind: str | None, framework: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Opens a checkpoint: its validated header (`FIELDS` by name) and the safetensors file.

    Args:
        path: the file.
        kind: the required kind, None for any.
        framework: "pt" for torch tensors, "numpy" for arrays.

    Raises:
        UsageError: the file is missing, damaged, not a checkpoint, or of another version or kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        with safe_open(path, framework=framework) as file:
            yield _header(path, file.metadata() or {}, kind), file
    except SafetensorError as error:
        raise UsageError(f"checkpoint {path} is truncated or not a safetensors file ({error})") from error
    except OSError as error:
        raise UsageError(f"checkpoint {path} cannot be read ({error})") from error


def read_header(path: str | Path, kind: str | None) -> dict[str, Any]:
    """The header of a checkpoint, `FIELDS` by name; raises as `open_checkpoint`."""
    with open_checkpoint(path, kind, "numpy") as (header, _):
        return header


def read_arrays(path: str | Path, kind: str, prefixes: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header of a checkpoint and, as float32 NumPy arrays, the weights whose names have one of the prefixes.

    Raises:
        UsageError: see `open_checkpoint`; or a weight is not finite.
    """
    with open_checkpoint(path, kind, "numpy") as (header, file):
        names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118 - not a mapping
        weights = {name: file.get_tensor(name).astype(np.float32) for name in names}
        for name, weight in weights.items():
            require_finite(path, name, bool(np.isfinite(weight).all()))
        return header, weights


def require_finite(path: str | Path, name: str, finite: bool) -> None:
    """Raises UsageError unless a weight is finite: a single NaN would spread into every output."""
    if not finite:
        raise UsageError(f"checkpoint {path} is unusable: {name} holds NaN or infinite weights (a training diverged?)")


def _header(path: Path, metadata: dict[str, str], kind: str | None) -> dict[str, Any]:
    """The validated header: `FIELDS` by name."""
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{path} is a safetensors file without the header of a {FORMAT}")
    if metadata.get("version") != VERSION:
        raise UsageError(f"{path} has format version {metadata.get('version')}; this program reads version {VERSION}")
    try:
        header = json.loads(metadata.get("header", ""))
    except json.JSONDecodeError as error:
        raise UsageError(f"the header of checkpoint {path} is damaged ({error})") from error
    if not isinstance(header, dict) or any(not isinstance(header.get(name), type_) for name, type_ in FIELDS.items()):
        raise UsageError(f"the header of checkpoint {path} is damaged: it must contain {', '.join(FIELDS)}")
    if kind is not None and header["kind"] != kind:
        raise UsageError(f"checkpoint {path} holds a network of kind {header['kind']!r}; {kind!r} is needed")
    return {name: header[name] for name in FIELDS}
