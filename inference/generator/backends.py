"""Inference backends of the generator: torch on any device, OpenVINO on CPUs."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inference.options import DEVICES
from preprocessing.errors import OutOfMemoryError, UsageError
from wav2lip.generator.model import Generator

BACKENDS = ("auto", "torch", "openvino")

MIN_PSNR = 46.0  # dB, of half precision against full, of the worst face: errors of 1.3 levels of 255, unseen in video
TESTED = 4  # faces on which half precision is tested

_Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass
class Backend:
    """A generator ready for inference, for one thread at a time; backends are independent of each other.

    Attributes:
        name: "torch" or "openvino".
        device: compute device.
        precision: "fp32", "fp16" or "bf16", the precision of the convolutions.
        run: the forward pass.
        full: makes the forward pass in full precision, with which half precision is compared on the first faces; None
            once that is done, or if `run` has full precision.
        max_batch: largest batch that fits into device memory, as found by `run_batched`; None: no limit known.
    """

    name: str
    device: torch.device
    precision: str
    run: _Run
    max_batch: int | None = None
    full: Callable[[], _Run] | None = None

    def __call__(self, mel: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Generates from mel (B, 1, 80, 16) and faces (B, 6, S, S), float32; returns float32 (B, 3, S, S).

        For ranges see `Generator.forward`. Raises torch.cuda.OutOfMemoryError if B faces do not fit.
        """
        if self.full is not None:
            self._test(self.full(), mel[:TESTED], faces[:TESTED])
            self.full = None
        return self.run(mel, faces)

    def _test(self, full: _Run, mel: np.ndarray, faces: np.ndarray) -> None:
        """Changes to full precision unless half precision gives nearly the same of these faces."""
        if not worst_psnr(self.run(mel, faces), full(mel, faces)) >= MIN_PSNR:  # NaN from an overflow is not, either
            self.run, self.precision = full, "fp32"


def worst_psnr(images: np.ndarray, references: np.ndarray) -> float:
    """Lowest PSNR of B images, (B, 3, S, S) from 0 to 1, in dB; NaN if a pixel is none."""
    error = np.square(images.astype(np.float64) - references).mean(axis=(1, 2, 3)).max()
    return float(-10 * np.log10(max(error, 1e-20))) if np.isfinite(error) else float("nan")


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first available of cuda, mps and cpu.

    Raises UsageError for a name not in DEVICES and for an unavailable device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}: choose one of {', '.join(DEVICES)}")
    if name == "auto":
        name = next(device for device, usable in available.items() if usable)
    if not available[name]:
        names = ", ".join(device for device in available if available[device])
        raise UsageError(f"device {name!r} is not available to torch on this machine: choose auto or one of {names}")
    return torch.device(name)


def load_backend(generator: Generator, name: str = "auto", device: str = "auto", threads: int | None = None) -> Backend:
    """Prepares `generator` for inference; the generator itself is not modified.

    "auto" is OpenVINO on a CPU if it is installed, torch otherwise. Half precision is used only on GPUs with CUDA and,
    by OpenVINO, on CPUs that compute in it, and only if the first faces to be generated come out as in full precision,
    within `MIN_PSNR`.

    Args:
        generator: on any device, in any mode.
        name: one of BACKENDS.
        device: one of DEVICES.
        threads: CPU threads, at least 1; None: the engine's default (one per core). With torch on a CPU this
            applies to the whole process.

    Raises:
        UsageError: unknown name, unavailable device, OpenVINO not installed or requested on a device other than a CPU.
    """
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}, but must be at least 1")
    target = choose_device("cpu" if name == "openvino" and device == "auto" else device)
    engine = _openvino() if name != "torch" and target.type == "cpu" else None
    if name == "openvino" and target.type != "cpu":
        raise UsageError(f"the openvino backend runs on the CPU, not on {target.type}: choose device cpu, or torch")
    if name == "openvino" and engine is None:
        raise UsageError("the openvino backend is not installed: pip install openvino, or choose the torch backend")
    folded = fold_batch_norm(generator).to(target, torch.float32)
    if engine is not None:
        return _openvino_backend(engine, folded, threads)
    return _torch_backend(folded, target, threads)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch computes in one thread meanwhile: more take half as much CPU time again for the small steps of loading."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_batched(backend: Backend, mel: np.ndarray, faces: np.ndarray, batch_size: int) -> np.ndarray:
    """Runs B inputs (see `Backend`) in batches of at most `batch_size`, fewer if GPU memory runs out.

    A batch that does not fit is halved and retried; `backend.max_batch` keeps the limit. Returns all B outputs. Raises
    UsageError for no inputs or a batch size below 1, and OutOfMemoryError if not even one face fits.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}, but must be at least 1")
    if not len(mel):
        raise UsageError("nothing to generate: the batch is empty")
    outputs: list[np.ndarray] = []
    start = 0
    while start < len(mel):
        stop = start + min(batch_size, backend.max_batch or batch_size, len(mel) - start)
        output = _attempt(backend, mel[start:stop], faces[start:stop])
        if output is not None:
            outputs.append(output)
            start = stop
        elif stop - start == 1:
            raise OutOfMemoryError(
                f"the memory of {backend.device} is too small for one face: free some memory, or use device cpu"
            )
        else:
            backend.max_batch = (stop - start) // 2
    return np.concatenate(outputs)


def _attempt(backend: Backend, mel: np.ndarray, faces: np.ndarray) -> np.ndarray | None:
    """The output, or None if GPU memory ran out; memory used by the attempt is freed."""
    try:
        return backend(mel, faces)
    except torch.cuda.OutOfMemoryError:
        pass  # the traceback keeps the tensors alive until this clause ends
    torch.cuda.empty_cache()
    return None


def fold_batch_norm(generator: Generator) -> Generator:
    """A frozen copy in eval mode with batch norms folded into the preceding convolutions; same outputs."""
    folded = copy.deepcopy(generator).eval().requires_grad_(False)
    for sequence in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for index, (layer, norm) in enumerate(pairwise(sequence)):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                sequence[index] = fuse_conv_bn_eval(layer, norm, transpose=transposed)
                sequence[index + 1] = nn.Identity()
    return folded


def _torch_backend(folded: Generator, device: torch.device, threads: int | None) -> Backend:
    if device.type == "cpu":
        torch.set_flush_denormal(True)  # for this thread and its children; denormals are up to 100 times slower
        if threads is not None:
            torch.set_num_threads(threads)
    if device.type != "mps":
        folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # 1.2 times faster on CPUs
    full = _torch_run(folded, device)
    if device.type == "cuda":
        return Backend("torch", device, "fp16", _torch_run(folded, device, half=True), full=lambda: full)
    return Backend("torch", device, "fp32", full)


def _torch_run(folded: Generator, device: torch.device, half: bool = False) -> _Run:
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last

    @torch.inference_mode()
    def run(mel: np.ndarray, faces: np.ndarray) -> np.ndarray:
        mel_batch = torch.tensor(mel, device=device)
        face_batch = torch.tensor(faces, device=device).contiguous(memory_format=layout)
        with torch.autocast(device.type, torch.float16, enabled=half):
            output = folded(mel_batch, face_batch)
        return output.float().cpu().contiguous().numpy()

    return run


def _openvino() -> ModuleType | None:
    """The openvino module if installed; imported lazily, because that takes a quarter of a second."""
    # Importing openvino sends telemetry and writes to the home folder, unless its telemetry package is missing;
    # None in sys.modules makes it look missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        return None
    return openvino


def _openvino_backend(engine: ModuleType, folded: Generator, threads: int | None) -> Backend:
    model, half = _convert(engine, folded), _fast_half_precision(engine)
    cpu, full = torch.device("cpu"), partial(_openvino_run, engine, model, "f32", threads)
    if half is None:
        return Backend("openvino", cpu, "fp32", full())
    run = _openvino_run(engine, model, half, threads)
    return Backend("openvino", cpu, {"f16": "fp16", "bf16": "bf16"}[half], run, full=full)


def _fast_half_precision(engine: ModuleType) -> str | None:
    """OpenVINO's name of the half precision that this CPU computes fastest in: "f16", "bf16" or None.

    fp16 has smaller errors, but with AVX512-FP16 alone it was slower than fp32; bfloat16 took half of fp32's time with
    AVX512-BF16.
    """
    if torch.cpu.get_capabilities().get("amx_fp16"):
        return "f16"
    return "bf16" if "BF16" in engine.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else None


def _convert(engine: ModuleType, folded: Generator) -> Any:
    """The generator as an OpenVINO model with a dynamic batch size; its weights must not be channels_last."""
    size = folded.config.size
    example = (torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, size, size))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.export takes three times as long
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # from group norm, whose shape is fixed
        traced = torch.jit.trace(folded, example, check_trace=False)  # takes half the time of OpenVINO's own tracing
    return engine.convert_model(traced, input=[engine.PartialShape([-1, *each.shape[1:]]) for each in example])


def _openvino_run(engine: ModuleType, model: Any, precision: str, threads: int | None) -> _Run:
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits while the video encoder occupies its core
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = engine.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(mel: np.ndarray, faces: np.ndarray) -> np.ndarray:
        return request.infer([mel, faces])[0]

    return run
