"""Sync losses, by hand and by where they pull."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from syncnet.training.loss import bce_loss, matching_loss, sync_loss, sync_probability


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_sync_probability_by_hand():
    video = torch.tensor([[3.0, 4], [1, 0], [1, 1], [0, 0], [2, 0]])
    speech = torch.tensor([[4.0, 3], [-2, 0], [1, -1], [5, 1], [7, 0]])
    assert sync_probability(video, speech).tolist() == pytest.approx([0.96, -1, 0, 0, 1], abs=1e-6)


def test_sync_probability_is_the_originals_cosine(shared):
    with np.load(shared / "reference/golden/losses.npz") as golden:
        audio, video, labels = (torch.from_numpy(golden[name]) for name in ("cos_a", "cos_v", "cos_y"))
        cosine, loss = golden["cosine"], float(golden["cosine_loss"])
    ours = sync_probability(video, audio)
    assert np.abs(ours.numpy() - cosine).max() < 1e-5
    assert bce_loss(ours, labels[:, 0]).item() == pytest.approx(loss, abs=1e-4)


def test_bce_loss_by_hand():
    half, sure = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.2])
    assert bce_loss(half, torch.tensor([1.0, 0])).item() == pytest.approx(math.log(2))
    assert bce_loss(sure, torch.tensor([1.0, 0])).item() == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)
    assert bce_loss(sure, torch.tensor([0.0, 1])).item() == pytest.approx(-(math.log(0.1) + math.log(0.2)) / 2)
    # Held within 1e-6 and 1 - 1e-6: a cosine that rounding takes beyond 1 has a loss, and the worst one is finite.
    assert bce_loss(torch.tensor([1.0000001]), torch.tensor([1.0])).item() == pytest.approx(0, abs=2e-6)
    assert bce_loss(torch.tensor([0.0]), torch.tensor([1.0])).item() == pytest.approx(6 * math.log(10), rel=1e-5)


def test_bce_loss_pulls_together_and_apart():
    probability = torch.tensor([0.5, 0.5], requires_grad=True)
    bce_loss(probability, torch.tensor([1.0, 0])).backward()
    assert probability.grad is not None
    assert probability.grad.tolist() == pytest.approx([-1, 1])  # of -log p and -log(1 - p), halved by the mean


def test_sync_loss_by_hand():
    right = torch.tensor([[1.0, 0]])
    assert sync_loss(right, right).item() == pytest.approx(0, abs=1e-6)
    assert sync_loss(right, torch.tensor([[0.0, 1]])).item() == pytest.approx(math.log(2))
    near = sync_loss(torch.tensor([[3.0, 4]]), torch.tensor([[4.0, 3]]))
    assert near.item() == pytest.approx(-math.log(0.98), rel=1e-4)
    # (1 + cos) / 2 is held at 1e-4 or more, so that the loss of opposites is finite.
    assert sync_loss(right, -right).item() == pytest.approx(4 * math.log(10), rel=1e-5)
    both = sync_loss(torch.cat((right, right)), torch.cat((right, torch.tensor([[0.0, 1]]))))
    assert both.item() == pytest.approx(math.log(2) / 2, abs=1e-6)


def test_sync_loss_pulls_together():
    video, speech = unit(4, 8).requires_grad_(), unit(4, 8, seed=1)
    sync_loss(video, speech).backward()
    assert video.grad is not None
    closer = sync_probability(video - 0.1 * video.grad, speech)
    assert (closer > sync_probability(video, speech)).all()


def test_matching_loss_of_perfect_embeddings_by_hand():
    every = torch.eye(6).unflatten(0, (2, 3))  # two clips of three windows, all different
    # Scale ln 4: a wrong window weighs 1/4 of the right one. Of a clip's own windows the first and the last have one
    # rival (their neighbour takes no part), the middle one has none; everywhere, each has three more.
    near = 2 / 3 * math.log(1 + 1 / 4)
    far = (2 * math.log(1 + 4 / 4) + math.log(1 + 3 / 4)) / 3
    scale = torch.tensor(math.log(4))
    assert matching_loss(every, every, scale).item() == pytest.approx(near + 0.25 * far, rel=1e-5)
    assert matching_loss(every, every, scale, batch_contrastive_weight=0).item() == pytest.approx(near, rel=1e-5)
    assert matching_loss(every, every, scale, batch_contrastive_weight=2).item() == pytest.approx(
        near + 2 * far, rel=1e-5
    )


def test_matching_loss_is_symmetric_cross_entropy_without_neighbours():
    audio, face = unit(2, 3, 5), unit(2, 3, 5, seed=1)
    cosines = (audio.flatten(0, 1) @ face.flatten(0, 1).T).numpy().astype(float)
    clip, place = np.divmod(np.arange(6), 3)
    near, far = [], []
    for similarity in (cosines, cosines.T):
        for i in range(6):
            neighbour = (clip == clip[i]) & (np.abs(place - place[i]) == 1)
            weights = np.exp(7.0 * similarity[i])
            near.append(-np.log(weights[i] / weights[(clip == clip[i]) & ~neighbour].sum()))
            far.append(-np.log(weights[i] / weights[~neighbour].sum()))
    loss = matching_loss(audio, face, torch.tensor(7.0), batch_contrastive_weight=0.25)
    assert loss.item() == pytest.approx(np.mean(near) + 0.25 * np.mean(far), rel=1e-5)


def test_matching_loss_does_not_separate_neighbours():
    base = torch.eye(4)
    audio = base[[0, 0, 2, 2]][None].clone().requires_grad_()  # windows 0 and 1 sound alike, and so do 2 and 3
    loss = matching_loss(audio, base[[0, 0, 2, 2]][None], torch.tensor(50.0), batch_contrastive_weight=0)
    assert loss.item() < 1e-6
    swapped = matching_loss(audio, base[[2, 2, 0, 0]][None], torch.tensor(50.0), batch_contrastive_weight=0)
    assert swapped.item() > 40
