"""Writes the shipped networks as ONNX files: `python -m wav2lip.export --out DIR`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preprocessing.commands import Parser, run_command
from preprocessing.errors import MediaError, UsageError, display_path

if TYPE_CHECKING:
    from torch import Tensor, nn

PROGRAM = "wav2lip.export"
INSTALL = "pip install -r requirements-onnx.txt"
OPSET = 18

Axes = dict[str, dict[int, str]]


@dataclass(frozen=True)
class Export:
    """A network that can be exported.

    Attributes:
        build: makes the network and example inputs.
        inputs, outputs: their names.
        axes: names of the variable axes, by input or output.
        about: shapes and units, in one line.
    """

    build: Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Axes
    about: str


def exports() -> dict[str, Export]:
    """Every network that is shipped, by name."""
    speech = {"samples": {1: "samples"}, "numbers": {0: "rows"}, "features": {1: "rows"}}
    motion = {"features": {1: "rows"}, "coefficients": {1: "frames"}, "closures": {1: "frames"}}
    windows = {name: {0: "windows"} for name in ("mel", "mouths", "audio_embedding", "video_embedding")}
    faces = {name: {0: "faces"} for name in ("faces", "embedding", "features")}
    sync = ("mel", "mouths"), ("audio_embedding", "video_embedding"), windows
    about_sync = "mel (W, 1, 80, 16), -4 to 4, and mouths (W, 15, S, S), 0 to 1: unit embeddings (W, D)"
    crop, points = ("crop",), ("points", "presence")
    about_points = "crop (1, S, S, 3) uint8 BGR: points (1, P, 3), -1 to 1 across it, presence (1,), 0 to 1"
    return {
        "landmarks-face": Export(lambda: _landmarks("face"), crop, points, {}, about_points),
        "landmarks-mouth": Export(lambda: _landmarks("mouth"), crop, points, {}, about_points),
        "occlusion": Export(
            _occlusion, crop, ("covered",), {},
            "crop (1, 112, 112, 3) uint8 BGR: covered (1, 56, 56), probability that something covers the face",
        ),
        "speech-encoder": Export(
            _speech_encoder, ("samples", "numbers"), ("features",), speech,
            "samples (1, n), 16 kHz, -1 to 1, and numbers (rows,) of the rows, 0, 1, 2, ..., 1 + n // 320 in all: "
            "features (1, rows, 1536), 50 rows a second",
        ),
        "lip-motion": Export(
            _lip_motion, ("features",), ("coefficients", "closures"), motion,
            "features (1, rows, 1536): coefficients (1, frames, K) at 25 fps and closure logits (1, frames)",
        ),
        "mouth-painter": Export(
            _mouth_painter, ("planes",), ("weights", "paint"), {},
            "planes (1, 15, 40, 72), 0 to 1, BGR images and masks in the order of painter_inputs.INPUTS: "
            "softmax weights and paint, (1, 3, 40, 72) each",
        ),
        "face-detector": Export(
            _face_detector, ("frames",), ("heat", "values"), {"frames": {1: "height", 2: "width"}},
            "frames (1, H, W, 3) uint8 BGR, sides multiples of 32: heat (1, H/8, W/8), 0 to 1, and values "
            "(1, 14, H/8, W/8), see preprocessing.faces.detectors.center.network_config.decode_cells",
        ),
        "sync-expert": Export(lambda: _sync("EXPERT"), *sync, about_sync),
        "sync-judge": Export(lambda: _sync("JUDGE"), *sync, about_sync),
        "face-encoder": Export(
            _face_encoder, ("faces",), ("embedding", "features"), faces,
            "faces (N, 3, S, S), 0 to 1, BGR: unit embeddings (N, E) and features of the Fréchet distance (N, D)",
        ),
    }  # fmt: skip


def _landmarks(part: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    from preprocessing.faces.landmarks.predictor import bundled_part

    return bundled_part(part)


def _occlusion() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from preprocessing.faces.occlusion.model import bundled_module

    return bundled_module()


def _face_detector() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from preprocessing.faces.detectors.center.detector import bundled_detector

    return bundled_detector()


def _speech_encoder() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from wav2lip.lip_motion.speech.whisper import encoder_module

    return encoder_module()


def _lip_motion() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from wav2lip.lip_motion.checkpoint import TrainedMotion
    from wav2lip.lip_motion.motion import WEIGHTS, motion_module

    return motion_module(TrainedMotion.load(WEIGHTS))


def _mouth_painter() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from wav2lip.renderer.painter import painter_module

    return painter_module()


def _sync(which: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import torch

    from syncnet import sync_expert

    network = sync_expert.SyncExpert.load(getattr(sync_expert, which)).network
    side = network.config["mouth_size"]
    for tower in (network.face_encoder, network.audio_encoder):
        _use_quadrants(tower)
    return network, (torch.zeros(2, 1, 80, 16), torch.zeros(2, 15, side, side))


def _face_encoder() -> tuple[nn.Module, tuple[Tensor, ...]]:
    import torch

    from evaluation.metrics.face_crops import SIDE
    from evaluation.metrics.face_encoder import FaceEncoder

    network = FaceEncoder.load().network
    _use_quadrants(network.person)

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
            return self.network(faces), self.network.features(faces)

    return Both(), (torch.zeros(2, 3, SIDE, SIDE),)


def _use_quadrants(layers: nn.Sequential) -> None:
    """Replaces AdaptiveAvgPool2d(2), which ONNX lacks."""
    import torch

    for position, layer in enumerate(layers):
        if isinstance(layer, torch.nn.AdaptiveAvgPool2d):
            layers[position] = _quadrants()


def _quadrants() -> nn.Module:
    """AdaptiveAvgPool2d(2) in operations that ONNX has: the means of four overlapping quarters."""
    import torch

    class Quadrants(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            height, width = int(x.shape[2]), int(x.shape[3])
            rows = (x[:, :, : (height + 1) // 2], x[:, :, height // 2 :])
            means = [[row[..., : (width + 1) // 2].mean((2, 3)), row[..., width // 2 :].mean((2, 3))] for row in rows]
            return torch.stack([torch.stack(pair, -1) for pair in means], -2)

    return Quadrants()


def export(name: str, path: Path) -> None:
    """Writes a network to an ONNX file.

    Raises:
        UsageError: no such network, or a package is missing.
        MediaError: the file cannot be written.
    """
    import torch

    if name not in exports():
        raise UsageError(f"no network {name!r}: choose from {', '.join(exports())}")
    wanted = exports()[name]
    network, example = wanted.build()
    part = path.with_name(f".unfinished-{path.name}")
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of branches on shapes, which do not change, and of the exporter's age
            torch.onnx.export(
                network.eval(), example, str(part), input_names=list(wanted.inputs), dynamo=False,
                output_names=list(wanted.outputs), dynamic_axes=wanted.axes, opset_version=OPSET,
            )  # fmt: skip
        _describe(part, name, wanted)
        part.replace(path)
    except OSError as error:
        raise MediaError(f"{display_path(path)} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _describe(path: Path, name: str, wanted: Export) -> None:
    """Checks the file and adds what its inputs and outputs mean."""
    import onnx

    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    model.producer_name, model.doc_string = "wav2lip", f"{name}: {wanted.about}"
    onnx.save(model, str(path))


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    known = "\n".join(f"  {name:<16} {wanted.about}" for name, wanted in exports().items())
    p = Parser(PROGRAM, __doc__, f"networks:\n{known}\n")
    p.add_argument("networks", nargs="*", metavar="NETWORK", help="which to write (default: all)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the .onnx files")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(argv)
    return run_command(PROGRAM, lambda: _run(args.networks or list(exports()), args.out))


def _run(names: Sequence[str], out: Path) -> None:
    if unknown := [name for name in names if name not in exports()]:
        raise UsageError(f"no network {unknown[0]!r}: choose from {', '.join(exports())}")
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(f"the export needs onnx: {INSTALL}") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{display_path(out)} cannot be made: {error.strerror}") from error
    for name in names:
        export(name, out / f"{name}.onnx")
        print(f"{display_path(out / f'{name}.onnx')}: {exports()[name].about}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
