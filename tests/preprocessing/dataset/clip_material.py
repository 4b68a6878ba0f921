"""Clips of numbered frames, and changes to the files they are in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from tests.material import change_clip, write_numbered_clip

COUNT = 20


def numbered(count: int = COUNT, side: int = 32) -> np.ndarray:
    """Frame k has the value 10 k everywhere, which JPEG keeps."""
    values = (10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, side, side, 3)).copy()


def write(path: Path, count: int = COUNT, **options: Any) -> Path:
    return write_numbered_clip(path, numbered(count), margin=4, **options)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-20000, 20000, count * 640).astype(np.int16)


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["clip"])


def change_header(path: Path, **values: Any) -> None:
    record = header_of(path) | values
    change_clip(path, {"format": "wav2lip-clip", "version": "1", "clip": json.dumps(record)})
