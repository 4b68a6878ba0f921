"""Checkpoints: round trip and rejection of other files."""

import json
import os
import stat
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.checkpoint import Checkpoint

WEIGHTS = {
    "first.weight": torch.tensor([[1.0, -2.5], [0.1, 3.0]]),
    "first.running_var": torch.tensor([1e-3, 2.0], dtype=torch.float64),
    "first.num_batches_tracked": torch.tensor(7),
    "empty": torch.zeros(0),
}


@pytest.fixture
def checkpoint():
    audio, crop = {"sample_rate": 16_000, "fmax": 7600.0}, {"kind": "box", "pads": [0, 10, 0, 0]}
    return Checkpoint("generator", {"width": 8, "name": "größer"}, audio, crop, dict(WEIGHTS), 3000)


def write_file(path, header=None, **metadata):
    """A safetensors file with a header of this format, or of a given one."""
    fields = {"kind": "generator", "config": {}, "audio": {}, "crop": {}, "step": 1}
    text = json.dumps(fields) if header is None else header
    save_file({"a": torch.ones(4)}, path, {"format": "wav2lip-checkpoint", "version": "1", "header": text} | metadata)
    return path


def test_comes_back_as_saved(tmp_path, checkpoint):
    checkpoint.save(tmp_path / "a.safetensors")
    loaded = Checkpoint.load(tmp_path / "a.safetensors", "generator")
    for name in ("kind", "config", "audio", "crop", "step"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    assert loaded.weights.keys() == WEIGHTS.keys()
    assert torch.equal(loaded.weights["first.weight"], WEIGHTS["first.weight"])
    assert loaded.weights["first.num_batches_tracked"].item() == 7
    assert loaded.weights["first.num_batches_tracked"].dtype == torch.int64
    assert loaded.weights["first.running_var"].dtype == torch.float32


def test_half_stores_two_bytes_a_weight_and_loads_float32(tmp_path, checkpoint):
    checkpoint.save(tmp_path / "a.safetensors", half=True)
    stored = load_file(tmp_path / "a.safetensors")
    assert stored["first.weight"].dtype == torch.float16
    assert stored["first.num_batches_tracked"].dtype == torch.int64
    loaded = Checkpoint.load(tmp_path / "a.safetensors").weights["first.weight"]
    assert loaded.dtype == torch.float32
    expected = [[1.0, -2.5], [0.0999755859375, 3.0]]  # 0.1 = 1638 / 16384 in 16 bits
    assert loaded.tolist() == expected


@pytest.mark.parametrize("value", [65520.0, -1e6, float("inf")])
def test_half_refuses_what_would_overflow(tmp_path, value):
    weights = {"fine": torch.ones(2), "big": torch.tensor([float("nan"), value])}
    with pytest.raises(ValueError, match=r"^big holds values beyond 65504 .* save without half"):
        Checkpoint("generator", {}, {}, {}, weights).save(tmp_path / "a.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []


def test_views_and_shared_weights_are_saved(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    Checkpoint("critic", {}, {}, {}, {"a": base, "b": base, "c": base.T}).save(tmp_path / "a.safetensors")
    weights = Checkpoint.load(tmp_path / "a.safetensors").weights
    assert torch.equal(weights["b"], base)
    assert weights["c"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_parameters_on_the_tape_are_saved(tmp_path):
    layer = torch.nn.Linear(2, 2)
    Checkpoint("critic", {}, {}, {}, layer.state_dict(keep_vars=True)).save(tmp_path / "a.safetensors")
    assert torch.equal(Checkpoint.load(tmp_path / "a.safetensors").weights["bias"], layer.bias.detach())


def test_saving_leaves_one_file_readable_like_any_other(tmp_path, checkpoint):
    plain = tmp_path / "plain"
    plain.touch()
    for _ in range(2):  # the second time overwrites the first
        checkpoint.save(tmp_path / "a.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "plain"]
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_save_that_fails_keeps_the_old_file(tmp_path, checkpoint, monkeypatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoint("critic", {}, {}, {}, {"a": torch.zeros(9)}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_into_a_missing_folder_names_it(tmp_path, checkpoint):
    with pytest.raises(ValueError, match=r"the folder .*nowhere does not exist"):
        checkpoint.save(tmp_path / "nowhere/a.safetensors")


def test_another_kind_is_refused_with_both_names(tmp_path, checkpoint):
    checkpoint.save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"holds a network of kind 'generator'; 'syncnet' is needed"):
        Checkpoint.load(tmp_path / "a.safetensors", "syncnet")


def test_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has format version 2; this program reads version 1"):
        Checkpoint.load(write_file(tmp_path / "a.safetensors", version="2"))


@pytest.mark.parametrize(
    "header",
    ["", "{", "[]", "{}", '{"kind": "generator"}',
     '{"kind": 1, "config": {}, "audio": {}, "crop": {}, "step": 1}',
     '{"kind": "generator", "config": {}, "audio": [], "crop": {}, "step": 1}',
     '{"kind": "generator", "config": {}, "audio": {}, "crop": {}, "step": null}'],
)  # fmt: skip
def test_a_damaged_header_is_refused(tmp_path, header):
    with pytest.raises(ValueError, match=r"header of checkpoint .* is damaged"):
        Checkpoint.load(write_file(tmp_path / "a.safetensors", header))


def test_a_safetensors_file_of_others_is_refused(tmp_path):
    save_file({"a": torch.ones(4)}, tmp_path / "a.safetensors")
    save_file({"a": torch.ones(4)}, tmp_path / "b.safetensors", {"format": "pt"})
    for name in ("a.safetensors", "b.safetensors"):
        with pytest.raises(ValueError, match="without the header of a wav2lip-checkpoint"):
            Checkpoint.load(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x00.", b"<html>" * 9, struct.pack("<Q", 1 << 62)])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth is truncated or not a safetensors file"):
        Checkpoint.load(tmp_path / "a.pth")


def test_truncation_is_refused_wherever_it_cuts(tmp_path):
    whole = write_file(tmp_path / "a.safetensors").read_bytes()
    for length in (1, 7, 8, 20, len(whole) // 2, len(whole) - 16, len(whole) - 1):
        (tmp_path / "b.safetensors").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated or not a safetensors file"):
            Checkpoint.load(tmp_path / "b.safetensors")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Checkpoint.load(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="is not a file"):
        Checkpoint.load(tmp_path)


def test_a_loaded_checkpoint_survives_its_file(tmp_path, checkpoint):
    checkpoint.save(tmp_path / "a.safetensors")
    loaded = Checkpoint.load(tmp_path / "a.safetensors")
    Checkpoint("critic", {}, {}, {}, {"a": torch.zeros(9)}).save(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").unlink()
    assert torch.equal(loaded.weights["first.weight"], WEIGHTS["first.weight"])
