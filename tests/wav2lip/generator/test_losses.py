"""Generator losses."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import cv2
import lightning_fabric
import numpy as np
import pytest
import torch
from torch import Tensor

from preprocessing.dataset.windows import CropRegion
from syncnet.sync_expert import SyncExpert
from training.losses import total
from wav2lip.generator.losses import (
    LossWeights,
    SyncSwitch,
    gradient_norms,
    masked_l1,
    mouth_weight,
    reconstruction_losses,
    relative_loss,
    sync_expert_loss,
)


def test_the_mouth_weighs_most_and_hidden_rows_nothing():
    weight = mouth_weight(96, 40)
    assert weight.shape == (1, 1, 96, 96)
    assert not weight[:, :, :40].any()
    assert weight[:, :, 40:].mean().item() == pytest.approx(1)
    row, column = divmod(int(weight.argmax()), 96)
    assert (row, column) == (55, 48)  # 0.57 and 0.5 of the side
    assert weight.max() / weight[:, :, 40:].min() == pytest.approx(4, rel=0.05)


ALL = LossWeights(laplacian=0.1, temporal=0.1)


def window(size: int = 8) -> Tensor:
    return torch.zeros(5, 3, size, size)


def reconstruction(picture: Tensor, target: Tensor, mask_row: int = 0, **options: float) -> dict[str, float]:
    weight, weights = torch.ones(1, 1, *picture.shape[-2:]), replace(ALL, **options)
    losses = reconstruction_losses(picture, target, weight, mask_row, weights)
    return {name: loss.item() for name, loss in losses.items()}


def test_reconstruction_by_hand():
    target = torch.full((5, 3, 4, 4), 0.1)
    picture = target.clone()
    picture[:, :, 0] = 0.9  # above the mask: costs nothing
    picture[3, 0, 2, 1] = 0.7
    weight = torch.ones(1, 1, 4, 4)
    weight[0, 0, 2, 1] = 2
    losses = reconstruction_losses(picture, target, weight, 2, ALL)
    assert list(losses) == ["l1", "gradient", "laplacian", "temporal"]
    assert losses["l1"].item() == pytest.approx(2 * 0.6 / (5 * 24))
    assert losses["gradient"].item() == pytest.approx((2 * 0.6 / 18 + 0.6 / 12) / 5)  # two neighbours beside, one below
    assert losses["temporal"].item() == pytest.approx(2 * 0.6 / (4 * 24))  # once to come, once to go
    assert masked_l1(picture, target, 2).item() == pytest.approx(0.6 / (5 * 24))


def test_an_even_error_is_neither_an_edge_nor_flicker():
    losses = reconstruction(window() + 0.25, window())
    assert losses == pytest.approx({"l1": 0.25, "gradient": 0, "laplacian": 0.25, "temporal": 0}, abs=1e-6)


def test_the_right_motion_costs_nothing_and_none_at_all_costs_it():
    brighter = 0.1 * torch.arange(5.0)[:, None, None, None]
    moving = window() + brighter
    assert reconstruction(moving + 0.05, moving)["temporal"] == pytest.approx(0, abs=1e-6)
    assert reconstruction(window(), moving)["temporal"] == pytest.approx(0.1)
    cut = torch.cat((window(), window() + 0.5))  # between two windows nothing moves
    assert reconstruction(cut, torch.zeros_like(cut))["temporal"] == 0


def test_a_loss_without_a_weight_is_not_computed():
    assert reconstruction(window(), window(), gradient=0, laplacian=0, temporal=0) == {"l1": 0}


def pyramid(x: np.ndarray) -> list[np.ndarray]:
    """The Laplacian pyramid of (H, W), by OpenCV's filters."""
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    octaves = []
    for _ in range(3):
        small = np.ascontiguousarray(cv2.sepFilter2D(x, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)[::2, ::2])
        octaves.append(x - cv2.resize(small, x.shape[::-1], interpolation=cv2.INTER_LINEAR))
        x = small
    return [*octaves, x]


def test_the_laplacian_pyramid_is_opencvs():
    shape = 43, 80
    rng = np.random.default_rng(0)
    picture, target = rng.random((2, 5, 3, *shape), np.float32)
    expected = [
        [np.abs(octave).mean() for octave in pyramid(frame)] for frame in (picture - target).reshape(-1, *shape)
    ]
    losses = reconstruction(torch.from_numpy(picture), torch.from_numpy(target))
    assert losses["laplacian"] == pytest.approx(np.mean(expected, axis=0).sum(), rel=1e-5)


@pytest.mark.parametrize("name", ["l1", "gradient", "laplacian", "temporal"])
def test_going_down_a_loss_leads_to_the_target(name):
    torch.manual_seed(0)
    target, picture = torch.rand(2, 5, 3, 16, 16)
    picture.requires_grad_()
    loss = reconstruction_losses(picture, target, torch.ones(1, 1, 16, 16), 0, ALL)[name]
    (slope,) = torch.autograd.grad(loss, picture)
    assert (slope * (target - picture)).sum() < 0
    # At the target itself it is 0, and around it, scaled with the distance (the losses are norms).
    near = reconstruction_losses(target.lerp(picture, 0.25), target, torch.ones(1, 1, 16, 16), 0, ALL)[name]
    assert near.item() == pytest.approx(loss.item() / 4, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1": -1.0}, "the weight l1 must be 0 or more, not -1.0"),
        ({"sync": float("nan")}, "the weight sync must be 0 or more, not nan"),
        ({"mouth": 0.5}, "mouth, .*, must be 1 or more, not 0.5"),
        ({"l1": 0.0, "gradient": 0.0}, "l1, gradient and laplacian"),
    ],
)
def test_impossible_weights_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossWeights(**options)


def test_plain_l1_is_the_originals(shared):
    with np.load(shared / "reference/golden/losses.npz") as golden:
        made = torch.from_numpy(golden["fake_u8"] / np.float32(255)).transpose(1, 2).flatten(0, 1)
        real = torch.from_numpy(golden["window_bgr"] / np.float32(255)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        assert masked_l1(made, real, 0).item() == pytest.approx(float(golden["l1"]), abs=1e-4)


def test_the_expert_judges_the_mouths_it_was_trained_on():
    seen = {}

    def stand_in(mel, mouths):
        seen["mouths"] = mouths
        return torch.tensor([[1.0, 0]]), torch.tensor([[0.6, 0.8]])

    expert = SyncExpert(stand_in)
    pictures = torch.rand(1, 3, 5, 96, 96)
    loss = sync_expert_loss(expert, pictures, torch.zeros(1, 1, 80, 16))
    assert loss.item() == pytest.approx(-np.log(0.8))
    assert seen["mouths"].shape == (1, 15, 64, 64)
    frame_2_green = seen["mouths"][0, 3 * 2 + 1]
    assert torch.allclose(frame_2_green, pictures[0, 1, 2, 28:92, 16:80], atol=1e-4)
    sync_expert_loss(expert, pictures, torch.zeros(1, 1, 80, 16), shift=(-3, 4))
    left_and_down = seen["mouths"][0, 3 * 2 + 1]
    assert torch.allclose(left_and_down, pictures[0, 1, 2, 32:96, 13:77], atol=1e-4)


def test_larger_pictures_show_the_expert_the_same_mouth():
    # A picture that is linear in x and y reads the same at any size: value at a pixel's centre, in shares of the side.
    def ramp(size: int) -> torch.Tensor:
        centres = (torch.arange(size) + 0.5) / size
        return (0.3 * centres[None] + 0.6 * centres[:, None]).expand(1, 3, 5, size, size)

    expert = SyncExpert(lambda mel, mouths: None, region=CropRegion(12 / 96, 22 / 96, 72 / 96, 48))
    small, large = expert.crop_input(ramp(96)), expert.crop_input(ramp(192))
    assert small.shape == large.shape == (1, 15, 48, 48)
    assert torch.allclose(small, large, atol=1e-5)
    assert small[0, 0, 0, 0].item() == pytest.approx(0.3 * (12 + 0.75) / 96 + 0.6 * (22 + 0.75) / 96, abs=1e-5)


class Hears:
    """An expert whose cosine is the mean blue of a window's first frame; the audio is ignored."""

    def crop_input(self, pictures: Tensor, shift: tuple[float, float]) -> Tensor:
        return pictures[:, 0, 0].mean((1, 2))

    def network(self, mel: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
        face = torch.stack((cosine, (1 - cosine.square()).sqrt()), dim=1)
        return torch.tensor([[1.0, 0]]).expand(len(face), -1), face


def cosines(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None, None].expand(-1, 3, 5, 8, 8).clone()


def heard(*values: float, **options) -> Tensor:
    return sync_expert_loss(Hears(), cosines(*values), torch.zeros(len(values), 1, 80, 16), **options)


def test_the_kinds_of_sync_loss_by_hand():
    assert heard(0.6, 0.0).item() == pytest.approx(-(np.log(0.8) + np.log(0.5)) / 2)
    assert heard(0.6, 0.2, kind="bce").item() == pytest.approx(-(np.log(0.6) + np.log(0.2)) / 2)
    assert heard(-0.5, kind="bce").item() == pytest.approx(-np.log(1e-6), rel=1e-3)
    # x = 0.3, y = 0.7, d = 0.2: 1 - (0.4 + 0.01) / (0.4 + 0.5 + 0.01).
    relative = heard(0.3, kind="relative", real=cosines(0.7), reference=cosines(0.2)).item()
    assert relative == pytest.approx(-np.log(1 - 0.41 / 0.91), rel=1e-4)


def test_relative_sync_wants_as_much_as_the_real_window_and_no_more():
    made = torch.tensor([0.3, 0.7, 0.9], requires_grad=True)
    real, still = torch.tensor([0.7, 0.7, 0.7]), torch.tensor([0.2, 0.2, 0.2])
    losses = torch.stack([relative_loss(*(x[k : k + 1] for x in (made, real, still))) for k in range(3)])
    assert losses[1] < losses[2] < losses[0]
    (slope,) = torch.autograd.grad(losses.sum(), made)
    assert slope[0] < 0 < slope[2]
    same = relative_loss(made, real, real)  # the expert hears no difference between the real window and the reference
    assert same.item() == pytest.approx(-np.log(1e-4), rel=1e-4)
    assert not torch.autograd.grad(same, made)[0].any()


@pytest.mark.parametrize("kind", ["log", "bce", "relative"])
def test_silent_windows_are_left_out(kind):
    options = {"kind": kind, "real": cosines(0.7, 0.6), "reference": cosines(0.1, 0.1)}
    only = {"kind": kind, "real": cosines(0.6), "reference": cosines(0.1)}
    assert heard(0.2, 0.5, silent=torch.tensor([True, False]), **options).item() == heard(0.5, **only).item()
    pictures = cosines(0.2, 0.5).requires_grad_()
    none = sync_expert_loss(Hears(), pictures, torch.zeros(2, 1, 80, 16), silent=torch.tensor([True, True]), **options)
    assert none.item() == 0
    assert torch.autograd.grad(none, pictures)[0].eq(0).all()


@pytest.mark.parametrize("kind", ["log", "bce", "relative"])
def test_the_shipped_expert_pulls_at_the_pictures_alone(kind):
    torch.manual_seed(0)
    expert, mel = SyncExpert.load(), torch.rand(2, 1, 80, 16)
    pictures, real, still = torch.rand(3, 2, 3, 5, 96, 96)
    pictures.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = sync_expert_loss(expert, pictures, mel, (1, -2), kind, None, real.requires_grad_(), still)
    assert loss.dtype == torch.float32
    loss.backward()
    assert pictures.grad.abs().max() > 0
    assert real.grad is None
    assert all(weight.grad is None for weight in expert.network.parameters())


def test_the_total_is_the_weighted_sum():
    losses = {"l1": torch.tensor(2.0), "sync": torch.tensor(3.0)}
    assert total(losses, {"l1": 1.0, "sync": 0.5}).item() == 3.5
    with pytest.raises(KeyError, match="sync"):
        total(losses, {"l1": 1.0})


def test_the_total_takes_weights_and_is_the_originals(shared):
    with np.load(shared / "reference/golden/losses.npz") as golden:
        losses = {"l1": torch.tensor(golden["l1"]), "sync": torch.tensor(golden["sync_eval"])}
        assert total(losses, LossWeights(l1=0.97, sync=0.03)).item() == pytest.approx(
            float(golden["wav2lip_loss_eval_w0.03"]), rel=1e-5
        )


def test_gradient_norms_by_hand():
    outputs = torch.tensor([3.0, 4.0], requires_grad=True)
    other = torch.zeros((), requires_grad=True)
    losses = {"l1": outputs.square().sum(), "sync": outputs[0], "temporal": torch.ones(()), "laplacian": 2 * other}
    norms = gradient_norms(losses, LossWeights(l1=0.5, sync=3.0), outputs)
    expected = {"l1": 0.5 * 10, "sync": 3.0, "temporal": 0.0, "laplacian": 0.0}
    assert norms == pytest.approx({f"gradient_norm/{name}": value for name, value in expected.items()})
    total(losses, LossWeights()).backward()  # the graph is still there


def test_gradient_norms_measure_what_fabrics_module_returns():
    """At mixed precision Fabric guards its module's output, but not a view of it."""
    fabric = lightning_fabric.Fabric(accelerator="cpu", precision="bf16-mixed")
    model = fabric.setup(torch.nn.Linear(2, 2))
    outputs = model(torch.ones(1, 2))
    with pytest.raises(RuntimeError, match=r"fabric\.backward"):
        gradient_norms({"l1": outputs.sum()}, LossWeights(), outputs)
    outputs = model(torch.ones(1, 2))
    outputs = outputs.view_as(outputs)
    losses = {"l1": outputs.sum()}
    assert gradient_norms(losses, LossWeights(), outputs)["gradient_norm/l1"] == pytest.approx(2**0.5)
    fabric.backward(losses["l1"])


def switched_on(switch: SyncSwitch, values: Iterable[float]) -> int | None:
    for step, value in enumerate(values):
        switch.update(step, value)
        if switch.on is not None:
            return step
    return None


def test_sync_joins_when_the_pictures_have_settled():
    falling = [0.1 * 0.99**step for step in range(100)]  # by a tenth in ten steps
    settled = falling + [falling[-1]] * 40
    assert switched_on(SyncSwitch(fall=0.05, patience=10), falling) is None
    # The mean of steps 100 to 109 lies 4.4 % below that of 90 to 99.
    assert switched_on(SyncSwitch(fall=0.05, patience=10), settled) == 109
    assert switched_on(SyncSwitch(fall=0.04, patience=10), settled) == 119
    assert switched_on(SyncSwitch(fall=0.05, patience=10), [0.1] * 30) == 19  # two means are needed


def test_sync_is_ramped_and_stays_on():
    switch = SyncSwitch(fall=0.05, patience=2, ramp=4)
    assert [switch.weight(0), switch.weight(1000)] == [0, 0]
    switched_on(switch, [0.1, 0.1, 0.1, 0.1])
    assert [switch.weight(step) for step in (2, 3, 4, 5, 7, 8)] == [0, 0, 0.25, 0.5, 1, 1]
    switched_on(switch, [0.2, 0.01, 0.001, 0.0001])
    assert switch.weight(4) == 0.25
    fixed = SyncSwitch(start=10, ramp=0)
    assert [fixed.weight(step) for step in (9, 10)] == [0, 1]
    assert switched_on(SyncSwitch(start=10), [0.1]) == 0  # whatever the pictures are like


@pytest.mark.parametrize("stop", [0, 7, 23, 50])
def test_the_switch_goes_on_where_it_was(stop):
    values = [*np.geomspace(1, 0.1, 30), *[0.1] * 30]
    whole, first, second = (SyncSwitch(fall=0.1, patience=6) for _ in range(3))
    found = switched_on(whole, values)
    assert found == 41  # the mean falls by 38 %, that of the first six steps of 0.1 by 19 %, then by nothing
    switched_on(first, values[:stop])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step, value in enumerate(values[stop:], stop):
        second.update(step, value)
    assert second.on == found


@pytest.mark.parametrize("options", [{"ramp": -1}, {"start": -1}, {"patience": 0}, {"fall": 1.0}])
def test_impossible_switches_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SyncSwitch(**options)
