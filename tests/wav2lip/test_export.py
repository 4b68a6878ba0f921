"""ONNX files of the shipped networks give torch's numbers in another runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wav2lip.export import exports, main

onnxruntime = pytest.importorskip("onnxruntime", reason="needs requirements-onnx.txt")
pytest.importorskip("onnx", reason="needs requirements-onnx.txt")
RNG = torch.Generator().manual_seed(0)


def other_inputs(name: str, example: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Random inputs, longer than the example along the variable axes."""
    wanted, inputs = exports()[name], []
    for given, like in zip(wanted.inputs, example, strict=True):
        shape = list(like.shape)
        for axis in wanted.axes.get(given, {}):
            shape[axis] = shape[axis] * 3 // 2
        if given == "numbers":
            inputs.append(torch.arange(shape[0]).float())
        elif like.dtype == torch.uint8:
            inputs.append(torch.randint(0, 256, shape, dtype=torch.uint8, generator=RNG))
        else:
            inputs.append(0.3 * torch.randn(shape, generator=RNG))
    return inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    assert main(["--out", str(folder / "new")]) == 0
    return folder / "new"


@pytest.mark.parametrize("name", exports())
def test_another_runtime_computes_the_same(folder, name):
    network, example = exports()[name].build()
    inputs = other_inputs(name, example)
    with torch.inference_mode():
        expected = network.eval()(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    got = session.run(None, {given: value.numpy() for given, value in zip(exports()[name].inputs, inputs, strict=True)})
    assert [output.name for output in session.get_outputs()] == list(exports()[name].outputs)
    for ours, theirs in zip(expected, got, strict=True):
        assert theirs.shape == tuple(ours.shape)
        assert np.abs(ours.numpy() - theirs).max() < 1e-3 * max(1.0, float(ours.abs().max()))


def test_an_unknown_network_is_refused_before_any_work(tmp_path, capsys):
    assert main(["lip-motion", "teeth", "--out", str(tmp_path / "out")]) == 2
    assert "no network 'teeth': choose from landmarks-face," in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
