"""The warping generator: input, fields, rendering, and loading from a file."""

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
from wav2lip.generator.model import (
    FIELDS,
    Generator,
    GeneratorConfig,
    flow_ramp,
    mask_and_stack,
    render,
    split_fields,
    warp,
)

SMALL = GeneratorConfig(width=4, size=96, mask_row=40, output="warp")


def fields(value: float = 0.0, size: int = 96, **channels: float) -> Tensor:
    """Raw output of a generator, `value` everywhere but in the named channels."""
    names = ("x", "y", "blue", "green", "red", "mix")
    raw = torch.full((1, FIELDS, size, size), value)
    for name, number in channels.items():
        raw[:, names.index(name)] = number
    return raw


def picture(seed: int = 0, channels: int = 3, size: int = 96) -> Tensor:
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(seed))


def shift(pixels: float, size: int = 96, max_flow: float = 0.25) -> float:
    """The raw field that flows by so many pixels."""
    return float(np.arctanh(pixels / size / max_flow))


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


def test_fields_by_hand():
    flow, colour, mix = split_fields(fields(x=0.5, y=-100.0, blue=0.0, green=2.0, red=-2.0, mix=-3.0), SMALL)
    assert [t.shape[1] for t in (flow, colour, mix)] == [2, 3, 1]
    assert flow[0, :, 90, 7].tolist() == pytest.approx([0.25 * 0.46211716, -0.25])  # tanh(0.5)
    assert not flow[0, :, : SMALL.mask_row].any()  # where the picture is copied, nothing flows
    assert colour[0, :, 5, 7].tolist() == pytest.approx([0.5, 0.88079708, 0.11920292])
    assert mix[0, :, 5, 7].tolist() == pytest.approx([0.04742587])
    longer = split_fields(fields(x=100.0), GeneratorConfig(output="warp", max_flow=0.1))[0]
    assert longer[0, 0, -1, 0].item() == pytest.approx(0.1)


def test_no_flow_samples_the_picture_itself():
    assert torch.allclose(warp(picture(), torch.zeros(1, 2, 96, 96)), picture(), atol=1e-5)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 5), (-7, 2), (-1, -96)])
def test_flow_by_whole_pixels_moves_the_picture(dx, dy):
    flow = torch.empty(1, 2, 96, 96)
    flow[:, 0], flow[:, 1] = dx / 96, dy / 96
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    expected = picture()[:, :, (y + dy).clamp(0, 95), (x + dx).clamp(0, 95)]  # the border is repeated
    assert torch.allclose(warp(picture(), flow), expected, atol=1e-4)


def test_half_a_pixel_is_the_mean_of_two():
    flow = torch.zeros(1, 2, 96, 96)
    flow[:, 0] = 0.5 / 96
    made, source = warp(picture(), flow), picture()
    assert torch.allclose(made[..., :-1], (source[..., :-1] + source[..., 1:]) / 2, atol=1e-5)


def test_flow_may_differ_from_pixel_to_pixel_and_item_to_item():
    flow = torch.zeros(2, 2, 96, 96)
    flow[0, 1, 10, 20], flow[1, 0, 30, 40] = 8 / 96, -4 / 96
    source = torch.cat((picture(0), picture(1)))
    made = warp(source, flow)
    assert made[0, :, 10, 20].tolist() == pytest.approx(source[0, :, 18, 20].tolist(), abs=1e-4)
    assert made[1, :, 30, 40].tolist() == pytest.approx(source[1, :, 30, 36].tolist(), abs=1e-4)
    assert torch.allclose(made[0, :, 50:], source[0, :, 50:], atol=1e-5)


def test_a_flow_can_be_finer_than_the_picture():
    gradient = torch.linspace(0, 1, 96).expand(1, 1, 96, 96)
    made = warp(gradient, torch.zeros(1, 2, 192, 192))
    assert made.shape == (1, 1, 192, 192)
    assert made[0, 0, 5, 95:97].mean().item() == pytest.approx(0.5, abs=1e-4)


def test_the_targets_upper_part_is_kept_and_the_reference_is_shown_below():
    faces = picture(channels=6)
    made = render(fields(mix=-100.0), faces, SMALL)
    assert torch.equal(made[:, :, :40], faces[:, :3, :40])
    assert torch.allclose(made[:, :, 40:], faces[:, 3:, 40:], atol=1e-5)


def test_the_picture_by_hand():
    faces = picture(channels=6)
    raw = fields(x=shift(6), y=shift(-2), blue=100.0, green=0.0, red=-100.0, mix=0.0)
    made = render(raw, faces, SMALL)
    taken = faces[0, 3:, 58, 56]  # pixel (50, 60) flows to (56, 58)
    expected = (taken + torch.tensor([1.0, 0.5, 0])) / 2
    assert made[0, :, 60, 50].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert made.shape == (1, 3, 96, 96)


def test_the_hidden_rows_reach_the_picture_only_through_the_network():
    faces, other = picture(channels=6), picture(channels=6)
    other[:, :3, 40:] = 0.3
    raw = fields(x=0.2, mix=-1.0)
    assert torch.equal(render(raw, faces, SMALL), render(raw, other, SMALL))


def test_every_field_learns():
    raw = (0.1 * torch.randn(1, FIELDS, 96, 96, generator=torch.Generator().manual_seed(0))).requires_grad_()
    render(raw, picture(channels=6), SMALL)[:, :, 40:].square().mean().backward()
    assert raw.grad is not None
    assert (raw.grad[:, :, 40:] != 0).float().mean() > 0.9
    assert not raw.grad[:, :, :40].any()


def test_a_loss_may_be_kept_from_the_paint():
    raw = (0.1 * torch.randn(1, FIELDS, 96, 96, generator=torch.Generator().manual_seed(0))).requires_grad_()
    faces = picture(channels=6)
    made = render(raw, faces, SMALL, paint_gradient=False)
    assert torch.equal(made, render(raw, faces, SMALL))
    made.square().mean().backward()
    assert raw.grad is not None
    assert (raw.grad[:, :2, 40:] != 0).float().mean() > 0.9
    assert not raw.grad[:, 2:].any()


@pytest.mark.parametrize("config", [SMALL, GeneratorConfig(4, 192, 80, "warp", audio_encoder="syncnet")])
def test_an_untrained_generator_copies_the_reference(config):
    torch.manual_seed(0)
    generator = Generator(config).eval()
    faces = picture(channels=6, size=config.size)
    with torch.inference_mode():
        raw = generator(torch.zeros(1, 1, 80, 16), faces)
        made = render(raw, faces, config)
    assert raw.shape == (1, FIELDS, config.size, config.size)
    assert torch.equal(made[:, :, : config.mask_row], faces[:, :3, : config.mask_row])
    lower = faces[:, 3:, config.mask_row :]
    assert torch.allclose(made[:, :, config.mask_row :], torch.lerp(lower, torch.tensor(0.5), 0.04742587), atol=1e-4)


@pytest.mark.parametrize("audio_encoder", ["own", "syncnet"])
def test_windows_of_frames_come_back_in_their_order(audio_encoder):
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=4, audio_encoder=audio_encoder)).eval()
    mel, faces = torch.rand(2, 3, 1, 80, 16), torch.rand(2, 6, 3, 96, 96)
    with torch.inference_mode():
        together = generator(mel, faces)
        alone = generator(mel[1, 2:3], faces[1:2, :, 2])
    assert together.shape == (2, 3, 3, 96, 96)
    assert torch.allclose(together[1:2, :, 2], alone, atol=1e-5)


def test_the_experts_hearing_is_frozen():
    generator = Generator(GeneratorConfig(width=4, output="warp", audio_encoder="syncnet"))
    frozen = {name for name, weight in generator.named_parameters() if not weight.requires_grad}
    assert frozen
    assert frozen == {name for name, _ in generator.named_parameters() if name.startswith("audio_encoder.tower.")}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"output": "flow"}, "'paint' or 'warp', not 'flow'"),
        ({"audio_encoder": "deaf"}, "'own' or 'syncnet', not 'deaf'"),
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


def test_flow_ramp_by_hand():
    """Half a pixel into the mask, in its middle and below: raised cosine over a tenth of 96 pixels."""
    ramp = flow_ramp(SMALL)
    row = SMALL.mask_row
    assert ramp[:row].max() == 0
    assert ramp[row + 4] == pytest.approx(0.5 - 0.5 * np.cos(np.pi * 4.5 / 9.6))
    assert (ramp[row + 10 :] == 1).all()
