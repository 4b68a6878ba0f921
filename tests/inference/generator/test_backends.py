"""Backends match the generator, and running out of GPU memory is distinguished from other errors."""

import copy
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

from inference.generator import backends
from inference.generator.backends import (
    BACKENDS,
    DEVICES,
    Backend,
    choose_device,
    fold_batch_norm,
    load_backend,
    run_batched,
)
from wav2lip.generator.model import Generator, GeneratorConfig

REPOSITORY = Path(__file__).resolve().parents[3]
ENGINES = ("torch", "openvino")
SHAPES = [
    GeneratorConfig(width=4),
    GeneratorConfig(width=4, size=192, mask_row=80),
]


@pytest.fixture(autouse=True)
def _calling_thread():
    """Backends change torch settings of the calling thread; restores them for other tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def released(shared):
    """The generator with the synthetic weights behind the golden data."""
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "reference/reference_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listing = json.loads((shared / "reference/golden/listings.json").read_text())["wav2lip"]
    generator = Generator()
    generator.load_state_dict(module.reference_state_dict(listing, seed=1))
    return generator


def inputs(batch, size=96, seed=0):
    """Mel windows over their whole range and smooth images."""
    draw = torch.Generator().manual_seed(seed)
    mel = torch.rand(batch, 1, 80, 16, generator=draw) * 8 - 4
    coarse = torch.rand(batch, 6, 8, 8, generator=draw)
    faces = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return mel.numpy(), faces.numpy()


def random_generator(config):
    """A generator in train mode with initialized batch norms whose output depends on every input."""
    return copy.deepcopy(_random_generator(config))


@functools.cache
def _random_generator(config):
    torch.manual_seed(1)
    generator = Generator(config)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    nn.init.normal_(generator.get_parameter("output_block.1.weight"), std=0.02)
    with torch.no_grad():
        generator(*map(torch.from_numpy, inputs(6, config.size, seed=9)))
    return generator


def eager(generator, mel, faces):
    with torch.inference_mode():
        return copy.deepcopy(generator).eval()(torch.from_numpy(mel), torch.from_numpy(faces)).numpy()


def overflowing():
    """A feature of 1e6 that later layers undo: representable in fp32, beyond fp16's 65,504."""
    generator = random_generator(GeneratorConfig(width=4))
    first = generator.face_encoder_blocks[0][0].conv_block[1]
    readers = (generator.face_encoder_blocks[1][0].conv_block[0], generator.output_block[0].conv_block[0])
    with torch.no_grad():
        first.weight *= 1e6
        first.bias *= 1e6
        for reader in readers:
            reader.weight[:, -4:] /= 1e6
    return generator


@pytest.mark.parametrize(("engine", "config"), [("openvino", SHAPES[0]), *(("torch", shape) for shape in SHAPES)])
def test_a_backend_computes_what_the_generator_computes(engine, config):
    generator = random_generator(config)
    before = copy.deepcopy(generator.state_dict())
    backend = load_backend(generator, engine, "cpu")
    assert (backend.name, backend.device) == (engine, torch.device("cpu"))
    for batch in (1, 3):
        mel, faces = inputs(batch, config.size)
        expected, output = eager(generator, mel, faces), backend(mel, faces)
        assert output.dtype == np.float32
        assert output.shape == (batch, 3, config.size, config.size)
        assert output.flags.c_contiguous
        assert np.ptp(expected, axis=(2, 3)).min() > 0.03  # a flat image would prove nothing
        bound = 2e-4 if backend.precision == "fp32" else 2e-2  # untrained networks amplify rounding errors
        assert np.abs(output - expected).max() < bound
    assert generator.training
    assert all(torch.equal(weight, before[key]) for key, weight in generator.state_dict().items())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_released_shape_stays_close_to_the_golden_frames(shared, released, engine):
    backend = load_backend(released, engine, "cpu")
    with np.load(shared / "reference/golden/generator.npz") as golden:
        output, expected = backend(golden["mel"][:3], golden["face"][:3]), golden["out"][:3]
    if backend.precision == "fp32":
        assert np.abs(output - expected).max() < 1e-4
    else:
        assert backends.worst_psnr(output, expected) > backends.MIN_PSNR - 0.1


def test_folding_leaves_no_batch_norm_and_shares_no_weight():
    generator = random_generator(GeneratorConfig(width=4))
    folded = fold_batch_norm(generator)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in generator.modules()) == 50
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    own = {weight.data_ptr() for weight in generator.parameters()}
    assert own.isdisjoint(weight.data_ptr() for weight in folded.parameters())


def test_folding_by_hand():
    """One weight 2, bias 1; mean 3, variance 4, gain 10, shift 5: 2x + 1 becomes 10 (2x + 1 - 3) / 2 + 5 = 10x - 5."""
    generator = Generator(GeneratorConfig(width=4))
    block = "face_decoder_blocks.0.0.conv_block"
    values = {"0.weight": 2, "0.bias": 1, "1.running_mean": 3, "1.running_var": 4, "1.weight": 10, "1.bias": 5}
    for key, value in values.items():
        generator.state_dict()[f"{block}.{key}"].fill_(value)
    folded = fold_batch_norm(generator).state_dict()
    assert torch.allclose(folded[f"{block}.0.weight"], torch.tensor(10.0), atol=1e-4)
    assert torch.allclose(folded[f"{block}.0.bias"], torch.tensor(-5.0), atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_backends_do_not_disturb_each_other(engine):
    first, second = random_generator(SHAPES[0]), random_generator(SHAPES[0])
    nn.init.constant_(second.output_block[1].bias, 3.0)
    one, two = load_backend(first, engine, "cpu"), load_backend(second, engine, "cpu")
    mel, faces = inputs(1)
    before = one(mel, faces)
    kept = before.copy()
    assert np.abs(two(mel, faces) - before).max() > 0.05
    assert np.array_equal(before, kept)  # later calls must not overwrite a returned array
    assert np.allclose(one(mel, faces), before, atol=1e-6)


def test_half_precision_is_dropped_where_the_network_overflows_it():
    """The check that guards every use of half precision, with torch's fp16 on the CPU."""
    cpu, mel_and_faces = torch.device("cpu"), inputs(2)
    for generator, kept in [(random_generator(SHAPES[0]), "fp16"), (overflowing(), "fp32")]:
        folded = fold_batch_norm(generator)
        full, half = backends._torch_run(folded, cpu), backends._torch_run(folded, cpu, half=True)
        backend = Backend("torch", cpu, "fp16", half, full=lambda full=full: full)
        output = backend(*mel_and_faces)
        assert backend.precision == kept
        assert np.abs(output - eager(generator, *mel_and_faces)).max() < 1e-2


@pytest.mark.parametrize(("error", "precision"), [(0.004, "fp16"), (0.006, "fp32"), (np.nan, "fp32")])  # 48 and 44 dB
def test_the_first_faces_decide_on_half_precision(error, precision):
    half, full = [], []

    def run(mel, faces):
        half.append(len(faces))
        wrong = np.zeros(len(faces), np.float32)
        wrong[min(2, len(faces) - 1)] = error  # one bad face is enough
        return faces[:, :3] + wrong[:, None, None, None]

    def exact(mel, faces):
        full.append(len(faces))
        return faces[:, :3]

    backend = Backend("torch", torch.device("cuda"), "fp16", run, full=lambda: exact)
    mel, faces = inputs(9)
    output = backend(mel, faces)
    assert backend.precision == precision
    assert (half, full) == (([4, 9], [4]) if precision == "fp16" else ([4], [4, 9]))
    assert np.isfinite(output).all()
    backend(mel, faces)
    assert len(half) + len(full) == 4  # it is decided once


def test_psnr_by_hand():
    images = np.zeros((2, 3, 4, 4), np.float32)
    assert backends.worst_psnr(images, images) == 200
    assert backends.worst_psnr(images + np.float32([[[[0.01]]], [[[0.001]]]]), images) == pytest.approx(40)


@pytest.mark.parametrize(("fast", "tried", "precision"), [("bf16", ["bf16"], "bf16"), (None, ["f32"], "fp32")])
def test_openvino_takes_half_precision_where_it_is_fast(monkeypatch, fast, tried, precision):
    asked = []

    def compiled(engine, model, hint, threads):
        asked.append(hint)
        return lambda mel, faces: faces[:, :3]

    monkeypatch.setattr(backends, "_fast_half_precision", lambda engine: fast)
    monkeypatch.setattr(backends, "_convert", lambda engine, generator: None)
    monkeypatch.setattr(backends, "_openvino_run", compiled)
    backend = backends._openvino_backend(sys, fold_batch_norm(random_generator(SHAPES[0])), None)
    assert asked == tried
    backend(*inputs(2))
    assert asked == (["bf16", "f32"] if fast else ["f32"])
    assert backend.precision == precision


def test_auto_is_openvino_on_a_cpu_and_torch_without_it(monkeypatch):
    answer = Backend("openvino", torch.device("cpu"), "fp32", lambda mel, faces: mel)
    monkeypatch.setattr(backends, "_openvino_backend", lambda *_: answer)
    generator = random_generator(SHAPES[0])
    assert load_backend(generator, "auto", "cpu") is answer
    monkeypatch.setitem(sys.modules, "openvino", None)  # simulates a missing package
    assert load_backend(generator, "auto", "cpu").name == "torch"
    with pytest.raises(ValueError, match="pip install openvino"):
        load_backend(generator, "openvino", "cpu")


def test_openvino_reports_to_nobody(tmp_path):
    """By default it sends telemetry on import and writes an ID into the home folder."""
    script = """
import socket
def refuse(*_): raise SystemExit("reached for the network")
socket.socket.connect = socket.getaddrinfo = refuse
from inference.generator.backends import load_backend
from wav2lip.generator.model import Generator, GeneratorConfig
assert load_backend(Generator(GeneratorConfig(width=4)), "openvino").name == "openvino"
"""
    home = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    home.pop("CI", None)  # which turns telemetry off anyway
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=home, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("hwloc/")]  # where /sys is hidden
    assert (done.returncode, done.stdout, errors) == (0, "", [])
    assert not list(tmp_path.iterdir())


def test_the_number_of_threads_reaches_the_engine():
    generator = random_generator(SHAPES[0])
    load_backend(generator, "torch", "cpu", threads=1)
    assert torch.get_num_threads() == 1
    engine = MagicMock()
    for threads in (1, None):
        backends._openvino_run(engine, "model", "f32", threads)
    settings = [call.args[2] for call in engine.Core().compile_model.call_args_list]
    assert [each.get("INFERENCE_NUM_THREADS") for each in settings] == [1, None]
    assert all("CACHE_DIR" not in each for each in settings)
    with pytest.raises(ValueError, match="threads is 0"):
        load_backend(generator, threads=0)


def test_choosing_a_device(monkeypatch):
    for cuda, mps, expected in [(1, 1, "cuda"), (1, 0, "cuda"), (0, 1, "mps"), (0, 0, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: bool(cuda))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: bool(mps))
        assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match=r"'cuda' is not available .* choose auto or one of cpu"):
        choose_device("cuda")


def test_what_does_not_exist_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    generator = Generator(GeneratorConfig(width=4))
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"device": "tpu"}, ", ".join(DEVICES)),
        ({"name": "onnx"}, ", ".join(BACKENDS)),
        ({"name": "openvino", "device": "cuda"}, "runs on the CPU, not on cuda"),
    ]
    for arguments, legal in refusals:
        with pytest.raises(ValueError, match=legal) as caught:
            load_backend(generator, **arguments)
        assert "\n" not in str(caught.value)


def limited_backend(capacity, batches, error=torch.cuda.OutOfMemoryError):
    """A backend for at most `capacity` faces that outputs mel's first value and records its batch sizes."""

    def run(mel, faces):
        batches.append(len(mel))
        if len(mel) > capacity:
            raise error("out of memory")
        return np.broadcast_to(mel[:, :, :1, :1], (len(mel), 3, 2, 2)) + faces[:, :3]

    return Backend("torch", torch.device("cuda"), "fp16", run)


def numbered(count: int) -> tuple[np.ndarray, np.ndarray]:
    mel = np.zeros((count, 1, 80, 16), np.float32)
    mel[:, 0, 0, 0] = np.arange(count)
    return mel, np.zeros((count, 6, 2, 2), np.float32)


def test_a_full_gpu_halves_the_batch_and_remembers():
    batches: list[int] = []
    backend = limited_backend(3, batches)
    output = run_batched(backend, *numbered(10), 8)
    assert batches == [8, 4, 2, 2, 2, 2, 2]
    assert output.shape == (10, 3, 2, 2)
    assert output[:, 0, 0, 0].tolist() == list(range(10))
    batches.clear()
    run_batched(backend, *numbered(3), 8)
    assert batches == [2, 1]


def test_batches_are_left_alone_while_there_is_memory():
    batches: list[int] = []
    run_batched(limited_backend(8, batches), *numbered(10), 8)
    assert batches == [8, 2]


def test_a_gpu_too_small_for_one_face_is_said_so():
    batches: list[int] = []
    with pytest.raises(MemoryError, match="too small for one face"):
        run_batched(limited_backend(0, batches), *numbered(4), 4)
    assert batches == [4, 2, 1]


@pytest.mark.parametrize("error", [RuntimeError, ValueError, MemoryError])
def test_no_other_error_is_taken_for_a_full_gpu(error):
    batches: list[int] = []
    with pytest.raises(error, match="out of memory"):
        run_batched(limited_backend(0, batches, error), *numbered(4), 4)
    assert batches == [4]


def test_empty_work_and_empty_batches_are_refused():
    with pytest.raises(ValueError, match="batch size is 0"):
        run_batched(limited_backend(8, []), *numbered(4), 0)
    with pytest.raises(ValueError, match="nothing to generate"):
        run_batched(limited_backend(8, []), *numbered(0), 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
def test_half_precision_on_a_gpu_stays_within_the_bound():
    generator = random_generator(SHAPES[0])
    backend = load_backend(generator, "auto", "cuda")
    mel, faces = inputs(3)
    assert backend.device.type == "cuda"
    assert np.abs(backend(mel, faces) - eager(generator, mel, faces)).max() < 6e-3
