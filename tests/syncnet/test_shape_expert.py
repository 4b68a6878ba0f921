"""The shape expert: loss by hand, known offsets, and learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from preprocessing.errors import UsageError
from syncnet.shape_expert import ShapeExpert, ShapeExpertConfig, offset, shape_matching_loss


def test_the_loss_by_hand():
    """Three frames; the middle one's neighbors are masked out, so its loss is zero."""
    audio = torch.eye(3)[None]
    shape = torch.eye(3)[None]
    loss = shape_matching_loss(audio, shape, torch.ones(1, 3), torch.tensor(0.0))
    end = np.log(1 + np.exp(-1.0))  # against the frame two away, cosine 0
    assert loss.item() == pytest.approx(2 * end / (3 + 1), rel=1e-5)


def test_frames_without_weight_do_not_count():
    torch.manual_seed(0)
    audio, shape = (F.normalize(torch.randn(2, 9, 4), dim=-1) for _ in range(2))
    weight = torch.ones(2, 9)
    weight[1] = 0
    both = shape_matching_loss(audio, shape, weight, torch.tensor(1.0))
    assert both.item() == pytest.approx(shape_matching_loss(audio[:1], shape[:1], weight[:1], torch.tensor(1.0)).item())


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_a_planted_offset_is_found(late):
    audio = np.random.default_rng(0).standard_normal((80, 16))
    audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    found, margin = offset(audio, np.roll(audio, late, axis=0), np.arange(80) > 9)
    assert found == late
    assert margin > 0.5


def test_too_few_frames_are_refused():
    with pytest.raises(UsageError, match="too few"):
        offset(np.zeros((80, 4)), np.zeros((80, 4)), np.zeros(80, bool))


def test_it_learns_which_shape_belongs_to_which_sound():
    torch.manual_seed(0)
    expert = ShapeExpert(ShapeExpertConfig(features=5, components=2, width=16, dimension=8, dropout=0.0))
    rows = torch.randn(6, 60, 5)
    shapes = rows[:, ::2, :2] + 0.1 * torch.randn(6, 30, 2)
    expert.normalize(rows.flatten(0, 1), torch.ones(2))
    optimizer = torch.optim.Adam(expert.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        audio, shape = expert.embed_audio(rows), expert.embed_shape(shapes)
        assert audio.shape == shape.shape == (6, 30, 8)
        loss = shape_matching_loss(audio, shape, torch.ones(6, 30), expert.log_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_config_refuses_what_is_no_share():
    with pytest.raises(UsageError, match="dropout must be at least 0 and below 1, not 1"):
        ShapeExpertConfig(features=5, components=2, dropout=1)
