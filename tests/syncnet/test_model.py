"""The small expert's network: its embeddings, and that windows do not mix."""

from __future__ import annotations

import pytest
import torch

from syncnet.model import SmallSyncNet


def test_the_small_expert_embeds_signed_unit_vectors():
    torch.manual_seed(0)
    for dimension in (256, 32):
        network = SmallSyncNet(dimension=dimension).eval()
        with torch.inference_mode():
            audio, face = network(torch.rand(3, 1, 80, 16) * 8 - 4, torch.rand(3, 15, 64, 64))
        for embedding in (audio, face):
            assert embedding.shape == (3, dimension)
            assert embedding.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
            assert 0.1 < (embedding < 0).float().mean() < 0.9


def test_the_small_expert_judges_each_window_alone():
    torch.manual_seed(0)
    network = SmallSyncNet(dimension=32).train()
    mel, faces = torch.rand(3, 1, 80, 16) * 8 - 4, torch.rand(3, 15, 64, 64)
    with torch.inference_mode():
        together, alone = network(mel, faces), network(mel[1:2], faces[1:2])
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a[1:2], b, atol=1e-5)


def test_the_small_expert_hears_and_sees():
    torch.manual_seed(0)
    network = SmallSyncNet(dimension=32)
    mel, faces = torch.zeros(1, 1, 80, 16, requires_grad=True), torch.rand(1, 15, 64, 64, requires_grad=True)
    audio, face = network(mel, faces)
    (audio[0, 0] + face[0, 0]).backward()
    for seen in (mel.grad, faces.grad):
        assert seen is not None
        assert (seen != 0).float().mean() > 0.9
    assert network.log_scale.exp().item() == pytest.approx(10, rel=0.01)
