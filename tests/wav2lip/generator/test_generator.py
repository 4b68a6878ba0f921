"""The generator: its input, configuration, and loading from a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from preprocessing.errors import MediaError
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig
from training.checkpoint import Checkpoint
from wav2lip.generator.checkpoints import load_generator
from wav2lip.generator.model import Generator, GeneratorConfig, mask_and_stack

SMALL = GeneratorConfig(width=4, size=96, mask_row=40)


def picture(seed: int = 0, channels: int = 3, size: int = 96) -> Tensor:
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_input_is_the_originals(shared):
    with np.load(shared / "reference/golden/generator.npz") as golden:
        faces, expected = golden["faces_bgr"], golden["face"]
        windows = golden["face5_u8"]
    stacked = mask_and_stack(faces, faces, 48)
    assert stacked.dtype == np.float32
    assert np.abs(stacked - expected).max() < 1e-6
    for window in windows:  # six channels of five frames
        target, reference = (window[channels].transpose(1, 2, 3, 0) for channels in (slice(0, 3), slice(3, 6)))
        assert np.abs(mask_and_stack(target, reference, 48) - window.transpose(1, 0, 2, 3) / 255).max() < 1e-6


def test_the_input_by_hand():
    target = np.full((2, 4, 4, 3), (51, 102, 153), np.uint8)
    reference = np.full((2, 4, 4, 3), (255, 0, 204), np.uint8)
    stacked = mask_and_stack(target, reference, 3)
    assert stacked.shape == (2, 6, 4, 4)
    assert stacked[1, :, 2, 1].tolist() == pytest.approx([0.2, 0.4, 0.6, 1, 0, 0.8])
    assert stacked[1, :, 3, 1].tolist() == pytest.approx([0, 0, 0, 1, 0, 0.8])
    assert target[0, 3, 3, 0] == 51  # the caller's pixels stay
    assert stacked.flags.c_contiguous


def test_windows_of_frames_come_back_in_their_order():
    torch.manual_seed(0)
    generator = Generator(SMALL).eval()
    mel, faces = torch.rand(2, 3, 1, 80, 16), torch.rand(2, 6, 3, 96, 96)
    with torch.inference_mode():
        together = generator(mel, faces)
        alone = generator(mel[1, 2:3], faces[1:2, :, 2])
    assert together.shape == (2, 3, 3, 96, 96)
    assert torch.allclose(together[1:2, :, 2], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "width must be 1 or more, not 0"),
        ({"size": 95}, "96 times a power of two, not 95"),
        ({"size": 48}, "96 times a power of two, not 48"),
        ({"size": 288}, "96 times a power of two, not 288"),
        ({"size": 0}, "96 times a power of two, not 0"),
        ({"mask_row": 0}, "within the 96 rows of the image, not 0"),
        ({"mask_row": 96}, "within the 96 rows of the image, not 96"),
        ({"size": 192, "mask_row": 192}, "within the 192 rows of the image, not 192"),
    ],
)
def test_impossible_generators_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**wrong)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Generator]:
    torch.manual_seed(0)
    generator = Generator(SMALL).eval()
    torch.nn.init.normal_(generator.output_block[1].weight)
    write(tmp_path / "ours.safetensors", generator)
    return tmp_path / "ours.safetensors", generator


def write(path: Path, generator: Generator, **changes: object) -> Path:
    parts = {"kind": "generator", "config": asdict(SMALL), "audio": asdict(AudioConfig(preemphasis=0.9)), "step": 7}
    crop = asdict(CropGeometry("points", 96, (1, 2, 3, 4)))
    Checkpoint(**(parts | {"crop": crop, "weights": generator.state_dict()} | changes)).save(path)  # type: ignore[arg-type]
    return path


def test_our_generator_opens_with_all_it_needs(saved):
    path, original = saved
    generator, audio, geometry = load_generator(path)
    assert generator.config == SMALL
    assert not generator.training
    assert audio == AudioConfig(preemphasis=0.9)
    assert geometry == CropGeometry("points", 96, (1, 2, 3, 4))
    mel, faces = torch.rand(1, 1, 80, 16), picture(channels=6)
    with torch.inference_mode():
        assert torch.equal(generator(mel, faces), original(mel, faces))


def test_a_header_without_pads_gets_the_usual_ones(saved, tmp_path):
    path = write(tmp_path / "plain.safetensors", saved[1], crop={"kind": "points"}, audio={})
    _, audio, geometry = load_generator(str(path))
    assert (audio, geometry) == (AudioConfig(), CropGeometry())


def test_a_released_generator_opens_with_the_released_front_end(tmp_path):
    torch.manual_seed(0)
    weights = Generator().state_dict()
    torch.save({"state_dict": {f"module.{key}": weight for key, weight in weights.items()}}, tmp_path / "wav2lip.pth")
    generator, audio, geometry = load_generator(tmp_path / "wav2lip.pth")
    assert generator.config == GeneratorConfig()
    assert not generator.training
    assert (audio, geometry) == (AudioConfig(), CropGeometry("box", 96, (0, 10, 0, 0)))
    key = "output_block.1.weight"
    assert torch.equal(generator.state_dict()[key], weights[key])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "small-syncnet"}, "kind 'small-syncnet'; 'generator' is needed"),
        ({"config": asdict(SMALL) | {"width": 8}}, "do not match its header"),
        ({"config": asdict(SMALL) | {"size": 100}}, "96 times a power of two"),
        ({"config": asdict(SMALL) | {"depth": 3}}, "depth"),
        ({"config": asdict(SMALL) | {"size": "large"}}, None),
        ({"audio": {"fmax": 9000.0}}, "fmax is 9000.0 Hz"),
        ({"audio": {"bits": 8}}, "bits"),
        ({"crop": {"kind": "mesh"}}, "'box' or 'points'"),
        ({"crop": {"pads": 3}}, None),
    ],
)
def test_a_header_that_cannot_be_is_refused_in_one_line(saved, tmp_path, changes, message):
    path = write(tmp_path / "other.safetensors", saved[1], **changes)
    with pytest.raises(MediaError, match=message) as error:
        load_generator(path)
    assert "\n" not in str(error.value)


def test_missing_files_folders_and_other_files_are_refused_in_one_line(saved, tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "half.safetensors").write_bytes(saved[0].read_bytes()[:5000])
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    (tmp_path / "foreign.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for name in ("missing.pth", "", "text.pth", "empty.safetensors", "half.safetensors", "foreign.safetensors"):
        with pytest.raises(MediaError) as error:
            load_generator(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)
