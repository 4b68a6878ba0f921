"""Networks compiled for the CPU by OpenVINO and cached, so that a later start needs neither torch nor compiling.

A cached file belongs to one OpenVINO version, one kind of CPU, and the files that define the network; it begins with
its SHA-256, so a damaged one is compiled again. Without OpenVINO or a writable cache everything works, but slower.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from preprocessing.errors import MediaError
from preprocessing.process_heap import return_freed_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = "1"  # of the cached files
KEPT = 24  # cached files; the least recently used ones are removed
DIGEST = hashlib.sha256().digest_size
SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": 1,  # the networks are small: a second thread waits more than it computes
    "ENABLE_CPU_PINNING": False,  # a pinned thread waits while the video encoder occupies its core
}

Network: TypeAlias = Callable[..., list[np.ndarray]]
"""A forward pass: NumPy arrays in, a list of NumPy arrays out; may be called from several threads at once."""

Build: TypeAlias = "Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]"
"""Makes the torch module and example inputs; called only if the compiled network is not cached."""


def load_network(name: str, sources: Sequence[Path], build: Build, shapes: Sequence[Sequence[int]]) -> Network:
    """A network ready for inference on one CPU thread.

    Args:
        name: prefix of the cached file's name.
        sources: files that define the network: weights and source code.
        build: makes the network if it is not cached.
        shapes: input shapes, -1 for a variable length.

    The network raises MediaError rather than return values that are not numbers.
    """
    engine = openvino_module()
    if engine is None:
        return torch_network(build, name)
    core = engine.Core()
    try:
        file = _cache_folder() / f"{name}-{_key(core, engine, sources)}.network"
    except OSError:  # a source is missing: `build` says so better
        file = None
    model = _read(core, file) if file else None
    if model is None:
        model = core.compile_model(_converted(engine, build, shapes), "CPU", SETTINGS)
        if file:
            _write(file, model.export_model())
    return _Finite(name, _OpenVINONetwork(model))


class _Finite:
    """A network with its outputs checked: a NaN must not reach a frame, where it would be some color."""

    def __init__(self, name: str, network: Network) -> None:
        self._name, self.network = name, network

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        outputs = self.network(*inputs)
        if all(part.size for part in inputs) and not all(output.size for output in outputs):
            raise MemoryError(f"the network {self._name} gave no values")  # as OpenVINO does, instead of an error
        if not all(np.isfinite(output).all() for output in outputs):
            raise MediaError(f"the network {self._name} gave values that are not numbers: its weights cannot be used")
        return outputs


def release_memory(network: Network) -> None:
    """Gives back to the system what a network of `load_network` keeps for its next call, and other freed memory.

    Worth it after inputs of variable length: of those OpenVINO keeps the intermediate values of the longest.
    """
    if isinstance(network, _Finite) and isinstance(network.network, _OpenVINONetwork):
        with suppress(RuntimeError):  # another thread is using it, and will release it
            network.network.model.release_memory()
        return_freed_memory()


def openvino_module() -> ModuleType | None:
    """The openvino module if it is installed; imported lazily, because that takes a quarter of a second."""
    # Importing openvino sends telemetry and writes to the home folder, unless its telemetry package is missing;
    # None in sys.modules makes it look missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        return None
    return openvino


class _OpenVINONetwork:
    """A compiled model with one inference request per thread."""

    def __init__(self, model: Any) -> None:
        self.model, self._local = model, threading.local()
        self._fixed = not any(port.partial_shape.is_dynamic for port in (*model.inputs, *model.outputs))

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self.model.create_infer_request()
            sides = request.input_tensors, request.output_tensors
            self._local.tensors = [[one.data for one in side] for side in sides]
        if not self._fixed:
            return list(request.infer(list(inputs), share_inputs=True).values())
        # Handing arrays over costs more than copying them into the request's own memory.
        given, results = self._local.tensors
        for memory, array in zip(given, inputs, strict=True):
            memory[...] = array
        request.infer(share_outputs=True)
        return [memory.copy() for memory in results]


def torch_network(build: Build, name: str = "in training") -> Network:
    """A network run by torch, without compiling; otherwise as `load_network`."""
    import torch

    network, _ = build()

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs = network(*map(torch.from_numpy, inputs))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return _Finite(name, run)


def _converted(engine: ModuleType, build: Build, shapes: Sequence[Sequence[int]]) -> Any:
    """The network as an OpenVINO model."""
    import torch

    network, example = build()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.export takes three times as long
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # from branches on shapes, which do not change
        traced = torch.jit.trace(network, example, check_trace=False)
        return engine.convert_model(traced, input=[engine.PartialShape(list(shape)) for shape in shapes])


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wav2lip" / "networks"


def _key(core: Any, engine: ModuleType, sources: Sequence[Path]) -> str:
    """Hash of all that a compiled network depends on."""
    parts = [FORMAT, engine.__version__, core.get_property("CPU", "FULL_DEVICE_NAME"), repr(SETTINGS)]
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:24]


def _read(core: Any, file: Path) -> Any:
    """The cached model; None if there is none, or it is damaged."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
        return None
    with suppress(OSError):
        os.utime(file)  # marks it as used
    try:
        return core.import_model(io.BytesIO(data[DIGEST:]), "CPU", SETTINGS)
    except RuntimeError:
        return None


def _write(file: Path, exported: io.BytesIO) -> None:
    """Writes a cached model atomically, if the cache can be written, and removes the oldest ones."""
    data = exported.read()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            part = Path(folder, file.name)
            part.write_bytes(hashlib.sha256(data).digest() + data)
            os.replace(part, file)
        by_age = sorted(file.parent.glob("*.network"), key=lambda one: one.stat().st_mtime)
        for old in by_age[:-KEPT]:
            old.unlink(missing_ok=True)
