"""The shipped architecture: an audio-conditioned U-Net that warps the reference."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from inference.generator.backends import load_backend
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig
from syncnet.model import ChannelNorm, SmallSyncNet
from syncnet.sync_expert import SyncExpert
from training.checkpoint import Checkpoint
from wav2lip.generator.checkpoints import load_generator
from wav2lip.generator.model import FIELDS, Generator, GeneratorConfig, frames_from_output, render, split_fields
from wav2lip.generator.train_state import load_audio_encoder
from wav2lip.generator.unet import FiLMResBlock, UNetGenerator, build_generator

SMALL = GeneratorConfig(8, 64, 26, "warp", audio_encoder="syncnet", network="unet")
DEFAULT_GENERATOR = GeneratorConfig(32, 128, 53, "warp", audio_encoder="syncnet", network="unet")


def inputs(size: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Mels over their whole range and smooth frames."""
    draw = torch.Generator().manual_seed(0)
    mel = torch.rand(batch, 1, 80, 16, generator=draw) * 8 - 4
    coarse = torch.rand(batch, 6, 8, 8, generator=draw)
    return mel, F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


def lively(config: GeneratorConfig = SMALL) -> UNetGenerator:
    """A generator whose zero-initialized layers are filled, so that every layer affects the output."""
    torch.manual_seed(1)
    generator = UNetGenerator(config).eval()
    for module in generator.modules():
        if isinstance(module, FiLMResBlock) and module.film is not None:
            nn.init.normal_(module.film.weight, std=0.05)
    for name in ("flow.2.weight", "paint.2.weight"):
        nn.init.normal_(generator.get_parameter(name), std=0.05)
    return generator


def expert(norm: str = "group") -> SyncExpert:
    torch.manual_seed(2)
    return SyncExpert(SmallSyncNet(norm=norm))


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, size=80, mask_row=33)])
def test_an_untrained_one_copies_the_reference(config):
    mel, faces = inputs(config.size)
    with torch.inference_mode():
        fields = UNetGenerator(config).eval()(mel, faces)
        made = render(fields, faces, config)
    assert fields.shape == (2, FIELDS, config.size, config.size)
    lower = slice(config.mask_row, None)
    assert torch.equal(made[:, :, : config.mask_row], faces[:, :3, : config.mask_row])
    expected = torch.lerp(faces[:, 3:, lower], torch.tensor(0.5), 0.04742587)  # sigmoid(-3) of a medium grey
    assert torch.allclose(made[:, :, lower], expected, atol=1e-4)


def test_it_hears_and_sees_both_pictures():
    mel, faces = inputs(SMALL.size, 1)
    mel.requires_grad_()
    faces.requires_grad_()
    lively()(mel, faces).square().sum().backward()
    assert mel.grad is not None
    assert faces.grad is not None
    assert mel.grad.abs().sum() > 0
    assert (faces.grad.abs().sum((0, 2, 3)) > 0).all()


def test_the_flow_is_smooth_by_construction():
    """Read at a quarter of the side and widened linearly: between its nodes the second difference vanishes."""
    mel, faces = inputs(SMALL.size)
    with torch.inference_mode():
        fields = lively()(mel, faces)
    flow = fields[:, :2]
    assert flow.std() > 0.01
    second = (flow[..., 2:] - 2 * flow[..., 1:-1] + flow[..., :-2]).abs()
    straight = second < 1e-5 * flow.abs().max()
    assert straight.float().mean() > 0.45  # two of every four columns lie inside a linear piece
    assert split_fields(fields, SMALL)[0].abs().max() <= SMALL.max_flow


def test_its_parts_learn_but_not_its_ears():
    generator = UNetGenerator(SMALL)
    frozen = {name for name, weight in generator.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in generator.named_parameters() if name.startswith("audio_encoder.tower.")}
    mel, faces = inputs(SMALL.size)
    target = inputs(SMALL.size)[1].flip(0)[:, :3]
    learnt = [weight for weight in generator.parameters() if weight.requires_grad]
    optimizer, losses = torch.optim.Adam(learnt, lr=3e-3), []
    for _ in range(12):
        picture = frames_from_output(generator(mel, faces), faces, SMALL)
        loss = (picture - target)[:, :, SMALL.mask_row :].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_it_adopts_an_experts_ears():
    generator, theirs = UNetGenerator(SMALL), expert()
    load_audio_encoder(generator, theirs)
    mel = inputs(SMALL.size)[0]
    with torch.inference_mode():
        heard = F.normalize(generator.audio_encoder.tower(mel / 4))
        assert torch.allclose(heard, theirs.network.embed_mel(mel), atol=1e-6)
    with pytest.raises(ValueError, match="'layer', not 'group': set the generator's audio_encoder_norm"):
        load_audio_encoder(generator, expert("layer"))
    own = Generator(GeneratorConfig(width=2))
    before = {key: value.clone() for key, value in own.state_dict().items()}
    load_audio_encoder(own, theirs)  # has its own audio encoder
    assert all(torch.equal(before[key], value) for key, value in own.state_dict().items())


def test_the_shipped_shape_is_small_and_cheap():
    """Budget: at most 4 GMAC a frame and 20 MB in 16 bits."""
    generator = UNetGenerator(DEFAULT_GENERATOR)
    weights = sum(weight.numel() for weight in generator.parameters())
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        generator(*inputs(128, 1))
    assert 3.4e6 < weights < 3.5e6
    assert 0.8e9 < counter.get_total_flops() / 2 < 0.85e9


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_backends_compute_what_it_computes(engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    generator = lively()
    mel, faces = inputs(SMALL.size, 3)
    with torch.inference_mode():
        expected = generator(mel, faces).numpy()
    made = load_backend(generator, engine, "cpu")(mel.numpy(), faces.numpy())
    assert np.abs(expected[:, :2]).std() > 0.01
    np.testing.assert_allclose(made, expected, atol=2e-4)


def test_a_traced_norm_is_the_same_norm():
    torch.manual_seed(0)
    norm, x = ChannelNorm(6), 3 + torch.randn(2, 6, 4, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    traced = torch.jit.trace(norm, x)
    assert torch.allclose(traced(x), norm(x), atol=1e-5)


def test_a_checkpoint_brings_it_back(tmp_path: Path):
    generator, path = lively(), tmp_path / "unet.safetensors"
    crop = asdict(CropGeometry("points", 64))
    Checkpoint("generator", asdict(SMALL), asdict(AudioConfig()), crop, generator.state_dict(), 5).save(path)
    opened, _, geometry = load_generator(path)
    assert isinstance(opened, UNetGenerator)
    assert (opened.config, geometry.size) == (SMALL, 64)
    with torch.inference_mode():
        assert torch.equal(opened(*inputs(64)), generator(*inputs(64)))


def test_the_configuration_chooses_the_network():
    assert isinstance(build_generator(SMALL), UNetGenerator)
    assert isinstance(build_generator(GeneratorConfig(width=2)), Generator)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "mlp"}, "'released' or 'unet', not 'mlp'"),
        ({"output": "paint"}, "'warp' and the audio_encoder 'syncnet'"),
        ({"audio_encoder": "own"}, "'warp' and the audio_encoder 'syncnet'"),
        ({"size": 72}, "a multiple of 16, at least 64, not 72"),
        ({"size": 48}, "a multiple of 16, at least 64, not 48"),
        ({"width": 0}, "width must be 1 or more"),
        ({"max_flow": 0.0}, "max_flow in \\(0, 1\\]"),
        ({"mask_row": 64}, "within the 64 rows of the image, not 64"),
    ],
)
def test_impossible_ones_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **wrong)
