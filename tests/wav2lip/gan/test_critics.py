"""Inputs and outputs of the critics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wav2lip.gan.autoencoder import AutoencoderCritic
from wav2lip.gan.critics import ClipCritic, Critic, PatchCritic, VisualQualityCritic

SMALL = {
    "patch": lambda: PatchCritic(width=4),
    "clip": lambda: ClipCritic(width=4, conditional=True),
    "autoencoder": lambda: AutoencoderCritic(64, width=2, code=8),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def windows(size: int = 64, frames: int = 5) -> Tensor:
    return torch.rand(2, 3, frames, size, size)


def last_layer(critic: Critic) -> torch.nn.Module:
    return critic.decode[-1] if isinstance(critic, AutoencoderCritic) else critic.head


@pytest.mark.parametrize(("size", "side"), [(64, 6), (96, 10), (104, 11)])
def test_patch_logits_are_a_map(size, side):
    critic, faces = PatchCritic(width=4), torch.rand(2, 3, size, size)
    logits, features = critic.logits_and_features(faces, faces)
    assert logits.shape == (2, 1, side, side)
    assert [tuple(f.shape[1:]) for f in features] == [
        (4, size // 2, size // 2), (8, size // 4, size // 4), (16, size // 8, size // 8), (32, side + 1, side + 1),
    ]  # fmt: skip


def test_patch_widths_are_as_published():
    shapes = [tuple(p.shape) for name, p in PatchCritic().named_parameters() if name.endswith("weight")]
    assert shapes == [(64, 6, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]


def test_patch_takes_a_strip_of_the_face():
    assert PatchCritic(width=4, conditional=False)(torch.rand(1, 3, 24, 96)).shape == (1, 1, 1, 10)


@pytest.mark.parametrize(("depth", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_its_patch_alone(depth, patch):
    critic = PatchCritic(depth, width=2, conditional=False)
    face = torch.rand(1, 3, 128, 128, requires_grad=True)
    logits = critic(face)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    seen = face.grad[0].abs().sum(0)
    for axis in (0, 1):
        lines = seen.sum(axis).nonzero().flatten()
        assert lines[-1] - lines[0] + 1 == len(lines) == patch


def test_instance_norm_lets_a_logit_see_everything():
    """Why batch norm is off by default; also shows that the test above can fail."""
    face = torch.rand(1, 3, 64, 64, requires_grad=True)
    PatchCritic(1, width=2, conditional=False, norm="instance")(face)[0, 0, 0, 0].backward()
    assert face.grad.abs().sum((0, 1)).count_nonzero() > 0.9 * 64 * 64


def test_batch_norm_stands_where_published():
    kinds = [type(layer[1]).__name__ for layer in PatchCritic(width=2, norm="batch").layers]
    assert kinds == ["Identity"] + 3 * ["BatchNorm2d"]


@pytest.mark.parametrize(("frames", "times"), [(1, 1), (2, 1), (4, 1), (5, 1), (6, 1), (11, 1), (12, 2), (13, 3)])
def test_clip_logits(frames, times):
    critic, faces = ClipCritic(frames, width=2), windows(72, frames)
    logits, features = critic.logits_and_features(faces)
    assert logits.shape == (2, 1, times, 4, 4)
    assert [f.shape[1] for f in features] == [2, 4, 8, 16]
    assert features[0].shape[2:] == (max(1, frames - 2), 36, 36)


def test_a_clip_logit_sees_every_frame_and_their_order():
    critic, faces = ClipCritic(width=4), windows().requires_grad_()
    critic(faces)[0].sum().backward()
    per_frame = faces.grad.abs().sum((1, 3, 4))
    assert (per_frame[0] > 0).all()
    assert (per_frame[1] == 0).all()
    assert not torch.allclose(critic(faces), critic(faces.flip(2)), atol=1e-6)


@pytest.mark.parametrize(("size", "inner"), [(64, 8), (72, 9), (96, 12), (128, 8)])
def test_autoencoder_redraws(size, inner):
    critic, faces = AutoencoderCritic(size, width=2, code=8), torch.rand(2, 3, size, size)
    features = critic.features(faces)
    assert features[-1].shape == (2, 8)
    assert features[-2].shape[-2:] == (inner, inner)
    assert critic.reconstruct(faces).shape == faces.shape
    # BEGAN's encoder: `width` more channels after each downsampling.
    assert [f.shape[1] for f in features[:-1]] == [2 * (i + 1) for i in range(len(features) - 1)]


@pytest.mark.parametrize(("error", "expected"), [("absolute", (0.5, 0.25)), ("squared", (0.25, 0.125))])
def test_energy_by_hand(error, expected):
    """A decoder that outputs gray: the error is 0.5 everywhere on black, and on half of a half-gray image."""
    critic = AutoencoderCritic(64, width=2, code=4, error=error)
    torch.nn.init.zeros_(critic.decode[-1].weight)
    torch.nn.init.constant_(critic.decode[-1].bias, 0.5)
    faces = torch.zeros(2, 3, 64, 64)
    faces[1, :, 32:] = 0.5
    assert critic(faces).flatten().tolist() == pytest.approx(expected)


def test_energy_falls_with_training_through_the_code_alone():
    critic, faces = AutoencoderCritic(64, width=2, code=4), torch.rand(2, 3, 8, 8)
    faces = torch.nn.functional.interpolate(faces, (64, 64), mode="bilinear")
    optimizer = torch.optim.Adam(critic.parameters(), 5e-3)
    first = critic(faces).mean().item()
    for _ in range(20):
        optimizer.zero_grad()
        critic(faces).mean().backward()
        optimizer.step()
    assert critic(faces).mean().item() < 0.7 * first
    torch.nn.init.zeros_(critic.encode[1].weight)  # the code then says nothing, and all faces are drawn alike
    assert torch.equal(*critic.reconstruct(faces))


@pytest.mark.parametrize("name", SMALL)
def test_windows_are_judged_as_their_items_are(name):
    """Frame critics flatten windows time-major; items of a batch are independent."""
    critic, faces, masked = SMALL[name](), windows(), windows()
    logits = critic(faces, masked)
    alone = [critic(faces[i : i + 1], masked[i : i + 1]) for i in range(2)]
    expected = torch.cat(alone) if name == "clip" else torch.stack(alone, dim=1).flatten(0, 1)
    assert torch.allclose(logits, expected, atol=1e-5)
    if name != "clip":
        assert torch.allclose(logits[2 * 3 + 1], critic(faces[1:, :, 3], masked[1:, :, 3])[0], atol=1e-5)


@pytest.mark.parametrize("name", ["patch", "clip"])
def test_condition_matters(name):
    critic, faces = SMALL[name](), windows()
    masked = faces.clone()
    masked[..., 32:, :] = 0
    assert (critic(faces, masked) - critic(faces, 1 - masked)).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"condition of shape \(2, 3, 5, 64, 64\), not none"):
        critic(faces)
    with pytest.raises(ValueError, match=r"not \(2, 3, 5, 32, 64\)"):
        critic(faces, masked[..., :32, :])


@pytest.mark.parametrize("name", SMALL)
def test_a_gradient_reaches_pictures_and_every_weight(name):
    critic, faces = SMALL[name](), windows().requires_grad_()
    critic(faces, windows()).mean().backward()
    assert (faces.grad.abs().amax((1, 3, 4)) > 0).all()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in critic.parameters())


@pytest.mark.parametrize("value", [-100.0, 100.0])
@pytest.mark.parametrize("name", SMALL)
def test_logits_are_not_squashed(name, value):
    critic = SMALL[name]()
    last = last_layer(critic)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, value)
    logits = critic(torch.zeros_like(windows()), windows())
    assert (logits == (100 if name == "autoencoder" else value)).all()  # an energy has no sign


@pytest.mark.parametrize("name", SMALL)
def test_forward_and_features_are_parts_of_inspect(name):
    critic, faces, masked = SMALL[name](), windows(), windows()
    logits, features = critic.logits_and_features(faces, masked)
    assert torch.equal(critic(faces, masked), logits)
    again = critic.features(faces, masked)
    assert len(again) == len(features) > 3
    assert all(torch.equal(a, b) for a, b in zip(again, features, strict=True))


def test_the_released_critic_shows_its_features():
    critic, face = VisualQualityCritic(), torch.rand(1, 3, 96, 96)
    features = critic.features(face, condition=1 - face)
    assert [tuple(f.shape[1:]) for f in features] == [
        (32, 48, 96), (64, 48, 48), (128, 24, 24), (256, 12, 12), (512, 6, 6), (512, 3, 3), (512, 1, 1),
    ]  # fmt: skip
    assert torch.equal(critic(face), critic.binary_pred(features[-1]).flatten(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchCritic(0), "depth must be at least 1, not 0"),
        (lambda: PatchCritic(norm="layer"), "norm must be one of none, instance, batch, not 'layer'"),
        (lambda: ClipCritic(0), "frames and depth must be at least 1, not 0 and 4"),
        (lambda: AutoencoderCritic(60), "size must be a multiple of 8 and at least 64, not 60"),
        (lambda: AutoencoderCritic(error="l1"), "error must be one of absolute, squared, not 'l1'"),
        (lambda: SMALL["patch"]()(torch.zeros(1, 3, 16, 64)), r"at least 24, not \(1, 3, 16, 64\)"),
        (lambda: SMALL["clip"]()(torch.zeros(1, 3, 4, 64, 64)), r"\(B, 3, 5, H, W\).*not \(1, 3, 4, 64, 64\)"),
        (lambda: SMALL["autoencoder"]()(torch.zeros(1, 3, 72, 72)), r"\(N, 3, 64, 64\).*not \(1, 3, 72, 72\)"),
    ],
)
def test_refusals_say_what_would_be_right(make, message):
    with pytest.raises(ValueError, match=message):
        make()
