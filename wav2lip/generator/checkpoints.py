"""Opens a generator, whoever made it: the embedded one, one of ours or a released one."""

from __future__ import annotations

from pathlib import Path

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig
from training.checkpoint import Checkpoint
from wav2lip.generator.model import Generator, GeneratorConfig
from wav2lip.generator.original_checkpoint import read_released
from wav2lip.generator.unet import AnyGenerator, build_generator

EMBEDDED = Path(__file__).parents[1] / "weights" / "generator.safetensors"


def load_generator(path: Path | str | None = None) -> tuple[AnyGenerator, AudioConfig, CropGeometry]:
    """A generator in evaluation mode, its audio front-end and its crop geometry.

    A released file says nothing of the last two: it gets the released front-end and the detector's box.

    Raises:
        MediaError: the file is missing or no generator.
    """
    path = EMBEDDED if path is None else Path(path)
    try:
        return _ours(path) if _is_safetensors(path) else _released(path)
    except OSError as error:
        raise MediaError(f"{display_path(path)} cannot be opened: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise MediaError(str(error)) from error


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of length, then a JSON object; no pickle and no zip starts so."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _ours(path: Path) -> tuple[AnyGenerator, AudioConfig, CropGeometry]:
    checkpoint = Checkpoint.load(path, "generator")
    crop = checkpoint.crop | {"pads": tuple(checkpoint.crop.get("pads", (0, 10, 0, 0)))}
    try:
        network = build_generator(GeneratorConfig(**checkpoint.config)).eval()
        network.load_state_dict(checkpoint.weights)
        return network, AudioConfig(**checkpoint.audio), CropGeometry(**crop)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{display_path(path)} holds other weights than its header says ({reason})") from error


def _released(path: Path) -> tuple[AnyGenerator, AudioConfig, CropGeometry]:
    network = Generator().eval()
    network.load_state_dict(read_released(path, "generator").weights)
    return network, AudioConfig(), CropGeometry("box", 96)
