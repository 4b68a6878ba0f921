"""Spectral norm, R1 and augmentation, against oracles and hand-computed numbers."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wav2lip.gan.autoencoder import AutoencoderCritic
from wav2lip.gan.critics import ClipCritic, PatchCritic
from wav2lip.gan.regularization import AugmentationParams, DifferentiableAugmentation, apply_spectral_norm, r1_penalty

OFF = {field.name: 0.0 for field in fields(DifferentiableAugmentation)}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def largest(critic: nn.Module) -> list[float]:
    """The largest singular value of each layer's weights."""
    layers = [m for m in critic.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))]
    return [torch.linalg.svdvals(layer.weight.detach().flatten(1)).max().item() for layer in layers]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PatchCritic(width=4),
        lambda: ClipCritic(width=4, conditional=True),
        lambda: AutoencoderCritic(64, width=2, code=8),
    ],
)
def test_spectral_norm_bounds_every_layer(make):
    critic, faces = make(), torch.rand(1, 3, 5, 64, 64)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(5)
    assert min(largest(critic)) > 1.1
    layers = len(largest(critic))
    assert apply_spectral_norm(apply_spectral_norm(critic)) is critic  # twice does no more than once
    with torch.no_grad():
        for _ in range(20):
            critic(faces, faces)
    assert largest(critic) == pytest.approx([1.0] * layers, abs=0.02)
    critic(faces, faces).mean().backward()
    assert all(p.grad is not None for p in critic.parameters())


class Linear(nn.Module):
    """D(x) = <weight, x> for each image, or for each column of it."""

    def __init__(self, weight: Tensor, columns: bool = False) -> None:
        super().__init__()
        self.weight, self.columns = nn.Parameter(weight), columns

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        scored = images * self.weight * (1 if condition is None else condition)
        return scored.sum((1, 2)) if self.columns else scored.flatten(1).sum(1, keepdim=True)


def test_r1_of_a_linear_critic_by_hand():
    """|w|^2 = 4 * 9, gamma / 2 = 5; the penalty's gradient by w is gamma * w."""
    critic = Linear(torch.full((1, 2, 2), 3.0))
    penalty = r1_penalty(critic, torch.rand(7, 1, 2, 2), gamma=10)
    assert penalty.item() == pytest.approx(180)
    penalty.backward()
    assert critic.weight.grad == pytest.approx(torch.full((1, 2, 2), 30.0))


def test_r1_of_a_map_takes_each_pictures_mean_logit():
    """Two logits of an image, their mean's gradient is w / 2: 5 * 4 * (3 / 2)^2."""
    penalty = r1_penalty(Linear(torch.full((1, 2, 2), 3.0), columns=True), torch.rand(7, 1, 2, 2), gamma=10)
    assert penalty.item() == pytest.approx(45)


def test_r1_leaves_pictures_and_condition_alone():
    """The condition scales this critic's gradient: 1 / 2 * 4 * (3 * 2)^2."""
    real, condition = torch.rand(2, 1, 2, 2), torch.full((2, 1, 2, 2), 2.0)
    assert r1_penalty(Linear(torch.full((1, 2, 2), 3.0)), real, condition, gamma=1).item() == pytest.approx(72)
    assert real.grad is None
    assert not real.requires_grad


def test_r1_does_not_depend_on_how_frames_are_laid_out():
    critic, faces = PatchCritic(2, width=2, conditional=False), torch.rand(2, 3, 3, 64, 64)
    apart = faces.transpose(1, 2).flatten(0, 1)
    assert r1_penalty(critic, faces).item() == pytest.approx(r1_penalty(critic, apart).item(), rel=1e-4)


def test_r1_falls_when_it_is_minimised_through_spectral_norm_and_augmentation():
    critic = apply_spectral_norm(PatchCritic(2, width=4, conditional=False))
    faces, augmentation = torch.rand(2, 3, 32, 32), DifferentiableAugmentation()
    params = augmentation.draw(2)

    def penalty() -> Tensor:
        return r1_penalty(critic, augmentation.apply(faces, params))

    optimizer, first = torch.optim.Adam(critic.parameters(), 1e-2), penalty().item()
    for _ in range(6):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()
    assert 0 < penalty().item() < 0.7 * first


def still(**values: list[float]) -> AugmentationParams:
    """An augmentation that changes only what is named."""
    count = len(next(iter(values.values())))
    rest = {field.name: [0.0] * count for field in fields(AugmentationParams)}
    return AugmentationParams(**{name: torch.tensor(value) for name, value in (rest | values).items()})


def test_off_changes_nothing():
    augmentation, faces = DifferentiableAugmentation(**OFF), torch.rand(3, 3, 16, 16)
    assert augmentation.apply(faces, augmentation.draw(3)) == pytest.approx(faces, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "drawn", "expected"),
    [
        ("brightness", 0.5, (0.3, 0.6, 0.9)),  # 0.2, 0.5, 0.8 and half of 0.2
        ("saturation", -1.0, (0.44, 0.5, 0.56)),  # a fifth of the way to their grey, 0.5
        ("contrast", 0.5, (0.17, 0.5, 0.83)),  # a tenth further from mid-grey
    ],
)
def test_colours_by_hand(kind, drawn, expected):
    strength = 0.8 if kind == "saturation" else 0.2
    augmentation = DifferentiableAugmentation(**(OFF | {kind: strength}))
    pixel = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    made = augmentation.apply(pixel.expand(1, 3, 8, 8), still(**{kind: [drawn]}))
    assert made[0, :, 3, 5].tolist() == pytest.approx(expected)


def test_translation_moves_whole_pixels_and_fills_with_black():
    augmentation = DifferentiableAugmentation(**(OFF | {"translation": 0.25}))
    faces = torch.rand(2, 3, 8, 16)
    made = augmentation.apply(faces, still(right=[0.5, -1.0], down=[1.0, 0.0]))
    expected = torch.zeros_like(faces)
    expected[0, :, 2:, 2:] = faces[0, :, :-2, :-2]
    expected[1, :, :, :-4] = faces[1, :, :, 4:]
    assert torch.allclose(made, expected, atol=1e-6)


def test_cutout_hides_a_rectangle_of_half_the_sides():
    augmentation = DifferentiableAugmentation(**(OFF | {"cutout": 0.5}))
    made = augmentation.apply(torch.ones(2, 3, 8, 16), still(cutout_x=[0.5, 0.0], cutout_y=[0.5, 1.0]))
    expected = torch.ones(2, 3, 8, 16)
    expected[0, :, 2:6, 4:12] = 0
    expected[1, :, 6:, :4] = 0  # the corner at the lower left, so a quarter of the rectangle
    assert torch.equal(made, expected)


def test_frames_of_a_window_are_augmented_alike_and_windows_apart():
    augmentation, face = DifferentiableAugmentation(), torch.rand(3, 32, 32)
    faces = face.expand(2, 5, 3, 32, 32).transpose(1, 2)
    made = augmentation.apply(faces, augmentation.draw(2))
    assert torch.equal(made, made[:, :, :1].expand_as(made))
    assert not torch.allclose(made[0], made[1])


def test_real_generated_and_masked_are_the_same_where_they_were():
    """The same color and spatial transformation, regardless of the image."""
    augmentation, real = DifferentiableAugmentation(cutout=0), torch.rand(4, 3, 5, 32, 32)
    masked = real.clone()
    masked[..., 16:, :] = 0
    params = augmentation.draw(4)
    difference = (augmentation.apply(real, params) - augmentation.apply(masked, params)).abs().amax((1, 2))
    for item, down in enumerate((params.down * 0.125 * 32).round().long().tolist()):
        assert difference[item, : 16 + down].max() < 1e-6
        assert difference[item, 16 + down : 28].max() > 0.01


def test_the_gradient_flows_as_finite_differences_say():
    augmentation = DifferentiableAugmentation(cutout=0.3)
    faces = torch.rand(1, 3, 2, 4, 5, dtype=torch.double, requires_grad=True)
    params = augmentation.draw(1, torch.Generator().manual_seed(3))
    assert torch.autograd.gradcheck(lambda x: augmentation.apply(x, params), faces)
    augmentation.apply(faces, params).sum().backward()
    assert 0.3 < (faces.grad != 0).double().mean() < 1  # what is cut out or moved away has none


def test_draws_are_seeded_and_keep_their_ranges():
    draws = [DifferentiableAugmentation().draw(500, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0].right, draws[1].right)
    assert not torch.equal(draws[0].right, draws[2].right)
    for field in fields(AugmentationParams):
        values, low = getattr(draws[0], field.name), 0 if field.name in ("cutout_x", "cutout_y") else -1
        assert low <= values.min() < low + 0.05
        assert 0.95 < values.max() < 1


def test_a_generator_is_pulled_towards_real_colours_through_the_augmentation():
    """A critic that likes bright images brightens the generator's image."""
    augmentation, image = DifferentiableAugmentation(), torch.full((1, 3, 16, 16), 0.3, requires_grad=True)
    for _ in range(20):
        F.softplus(-augmentation.apply(image, augmentation.draw(1)).mean()).backward()
    assert (image.grad < 0).float().mean() > 0.9


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_refusals(value):
    with pytest.raises(ValueError, match=f"cutout must be from 0 to 1, not {value}"):
        DifferentiableAugmentation(cutout=value)
    augmentation = DifferentiableAugmentation()
    with pytest.raises(ValueError, match="the augmentation was drawn for 1 windows, not 2"):
        augmentation.apply(torch.zeros(2, 3, 8, 8), augmentation.draw(1))
