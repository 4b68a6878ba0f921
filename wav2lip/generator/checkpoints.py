"""Loads generators: our checkpoints and released ones."""

from __future__ import annotations

from pathlib import Path

import torch

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig
from training.checkpoint import Checkpoint
from wav2lip.generator.model import Generator, GeneratorConfig
from wav2lip.generator.original_checkpoint import read_released


def load_generator(path: Path | str) -> tuple[Generator, AudioConfig, CropGeometry]:
    """Loads a generator in eval mode, with its audio front-end and crop geometry.

    Released files do not store the latter two; they get the released front-end and crops by the detector's box.

    Raises:
        MediaError: the file is missing or not a generator.
    """
    path = Path(path)
    try:
        return _load_own(path) if _is_safetensors(path) else _load_released(path)
    except OSError as error:
        raise MediaError(f"{display_path(path)} cannot be opened: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise MediaError(str(error)) from error


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts with a header length of eight bytes and a JSON object, unlike any pickle or zip."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _load_own(path: Path) -> tuple[Generator, AudioConfig, CropGeometry]:
    checkpoint = Checkpoint.load(path, "generator")
    crop = checkpoint.crop | {"pads": tuple(checkpoint.crop.get("pads", (0, 10, 0, 0)))}
    try:
        network = Generator(GeneratorConfig(**checkpoint.config)).eval()
        network.load_state_dict(checkpoint.weights)
        return network, AudioConfig(**checkpoint.audio), CropGeometry(**crop)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"the weights in {display_path(path)} do not match its header ({reason})") from error


def _load_released(path: Path) -> tuple[Generator, AudioConfig, CropGeometry]:
    weights = read_released(path, "generator").weights
    with torch.device("meta"):  # no random weights, which take longer than reading the file
        network = Generator().eval()
    network.load_state_dict(weights, assign=True)
    return network, AudioConfig(), CropGeometry("box", 96)
