"""The networks with the released architecture compute the same outputs as the originals."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syncnet.model import SyncNet
from wav2lip.gan.critics import VisualQualityCritic
from wav2lip.generator.model import Generator

RELEASED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "wav2lip": (Generator, 36_298_035),
    "syncnet_color": (SyncNet, 16_435_072),
    "wav2lip_disc_qual": (VisualQualityCritic, 14_113_793),
}


@pytest.fixture(autouse=True)
def _flush_denormals():
    """Flushes denormals, which untrained networks produce and CPUs handle slowly."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def golden(shared: Path) -> Callable[[str], dict[str, np.ndarray]]:
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(shared / "reference/golden" / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


def reference_network(shared: Path, name: str) -> nn.Module:
    """The network under test with the stand-in weights that made the golden data."""
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "reference/reference_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listing = json.loads((shared / "reference/golden/listings.json").read_text())[name]
    network = RELEASED[name][0]().eval()
    network.load_state_dict(module.reference_state_dict(listing, seed=1), strict=True)
    return network


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy((array / 255).astype(np.float32) if array.dtype == np.uint8 else array)


def lively_critic() -> VisualQualityCritic:
    """With the default initial weights what a face looks like hardly reaches the last layer."""
    torch.manual_seed(0)
    critic = VisualQualityCritic().eval()
    for parameter in critic.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return critic


def distance(computed: Tensor, expected: np.ndarray) -> float:
    assert computed.shape == expected.shape
    return float(np.abs(computed.numpy() - expected).max())


@torch.inference_mode()
def test_generator_matches_the_original(shared, golden):
    gold, network = golden("generator"), reference_network(shared, "wav2lip")
    assert distance(network(tensor(gold["mel"]), tensor(gold["face"])), gold["out"]) < 1e-4
    mels, faces, expected = gold["mel5"][:, :3], gold["face5_u8"][:, :, :3], gold["out5"][:, :, :3]
    assert distance(network(tensor(mels), tensor(faces)), expected) < 1e-4  # two windows, three of their five frames


@torch.inference_mode()
def test_syncnet_matches_the_original(shared, golden):
    gold, network = golden("syncnet"), reference_network(shared, "syncnet_color")
    audio, face = network(tensor(gold["mel"]), tensor(gold["face"]))
    assert distance(audio, gold["audio_emb"]) < 1e-5
    assert distance(face, gold["face_emb"]) < 1e-5
    assert distance(F.cosine_similarity(audio, face), gold["cosine"]) < 1e-5
    assert distance(audio @ face.T, gold["cosine_matrix"]) < 1e-5


@torch.inference_mode()
def test_critic_matches_the_original(shared, golden):
    gold, network = golden("discriminator"), reference_network(shared, "wav2lip_disc_qual")
    logits = network(tensor(gold["faces_u8"]))
    assert distance(torch.sigmoid(logits), gold["out"]) < 1e-4
    loss = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    assert distance(loss, gold["perceptual_loss"]) < 1e-4
    assert logits.abs().max() > 1 or logits.min() < 0, "probabilities were returned instead of logits"


@pytest.mark.parametrize("name", RELEASED)
def test_state_dict_has_the_released_keys_and_shapes(shared, name):
    listing = json.loads((shared / "reference/state_dicts" / f"{name}_state_dict.json").read_text())
    with torch.device("meta"):
        state = RELEASED[name][0]().state_dict()
    assert {key: list(weight.shape) for key, weight in state.items()} == listing


@pytest.mark.parametrize("name", RELEASED)
def test_parameter_count_is_the_released_one(name):
    build, count = RELEASED[name]
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == count


@torch.inference_mode()
def test_critic_lays_windows_out_time_major():
    critic, faces = lively_critic(), torch.rand(2, 3, 3, 96, 96)
    singles = [critic(faces[item : item + 1, :, time]) for time in range(3) for item in range(2)]
    assert torch.allclose(critic(faces), torch.cat(singles), atol=1e-4)
    logits = torch.cat(singles).flatten().sort().values
    assert logits.diff().min() > 1e-3, "unless the frames are told apart, their order is not tested"


@torch.inference_mode()
def test_critic_sees_the_lower_half_alone():
    critic, faces = lively_critic(), torch.rand(1, 3, 96, 96)
    upper, lower = faces.clone(), faces.clone()
    upper[:, :, 47] = 0
    lower[:, :, 48] = 0
    assert torch.equal(critic(upper), critic(faces))
    assert not torch.equal(critic(lower), critic(faces))


def test_critic_returns_logits_of_both_signs():
    critic = VisualQualityCritic()
    last = critic.binary_pred[0]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    for bias in (-3.0, 3.0):
        nn.init.constant_(last.bias, bias)
        nn.init.zeros_(last.weight)
        assert critic(torch.rand(1, 3, 96, 96)).item() == bias


@pytest.mark.parametrize("shape", [(3, 96, 96), (1, 3, 48, 96), (1, 6, 96, 96), (1, 5, 3, 96, 96), (1, 3, 5, 96, 48)])
def test_critic_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(N, 3, 96, 96\) or \(B, 3, T, 96, 96\), not \("):
        VisualQualityCritic()(torch.zeros(shape))


@torch.inference_mode()
def test_syncnet_embeddings_have_length_one():
    torch.manual_seed(0)
    audio, face = SyncNet().eval()(torch.randn(2, 1, 80, 16), torch.rand(2, 15, 48, 96))
    assert torch.allclose(torch.stack((audio, face)).norm(dim=-1), torch.ones(2, 2), atol=1e-5)
