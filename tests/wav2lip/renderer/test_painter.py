"""The painter: geometry of its crop, what it may change, and what of a known mouth it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from preprocessing.compiled_networks import torch_network
from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, Landmarks
from tests.wav2lip.renderer.faces import frame, opened, pose, shut_face
from wav2lip.renderer.inner_mouth import mouth_plane, teeth_place, to_mouth_plane
from wav2lip.renderer.painter import MouthPainter, PainterConfig, load_painter, painter_module
from wav2lip.renderer.painter_inference import NetworkPainter
from wav2lip.renderer.painter_inputs import (
    ABOVE,
    DENSITY,
    HEIGHT,
    WIDTH,
    from_image,
    paint_region,
    sample_crop,
    to_crop,
)
from wav2lip.renderer.renderer import MouthRenderer

IMAGES = ("composite", "warped", "source", "reference")


def painter(paint: float | None = None, seed: int = 0) -> MouthPainter:
    """A small painter; with `paint` it paints that brightness everywhere, in half the composite's color."""
    torch.manual_seed(seed)
    network = MouthPainter(PainterConfig((4, 4, 4), 1)).eval().requires_grad_(False)
    if paint is not None:
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([-20.0, -20.0, 20.0, paint - 0.5]).repeat_interleave(4))
        network.color.weight.zero_()
    return network


def planes(count: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = dict.fromkeys(IMAGES, 3) | {"inner": 1, "lips": 1, "retrieved": 1}
    return {name: torch.rand(count, size, HEIGHT, WIDTH, generator=generator) for name, size in sizes.items()}


def test_the_bundled_painter_is_small_and_mixes_with_weights_that_sum_to_one():
    network = load_painter()
    given = planes()
    painted = network(given)
    assert sum(p.numel() for p in network.parameters()) <= 2_000_000
    torch.testing.assert_close(painted.weights.sum(1), torch.ones(2, HEIGHT, WIDTH))
    parts = (given["warped"], given["composite"], painted.paint)
    mixed = sum(painted.weights[:, k : k + 1] * part for k, part in enumerate(parts))
    torch.testing.assert_close(painted.image, mixed)


def test_the_crop_is_the_same_part_of_the_head_however_the_head_is_turned():
    """A point of the mouth plane falls on one crop pixel in every pose, and the origin on the row ABOVE."""
    face = shut_face()
    for turned in (pose(), pose(scale=1.3, x=20, y=90, yaw=25)):
        plane = mouth_plane(turned)
        points = turned.repose(face)
        origin = teeth_place(to_mouth_plane(points[LIPS_INNER], plane))
        at = origin + np.array([3.0, 5.0])
        place = from_image(plane[:, :2] @ at + plane[:, 2], to_crop(plane, origin))
        np.testing.assert_allclose(place, ((WIDTH - 1) / 2 + 3 * DENSITY, ABOVE + 5 * DENSITY), atol=1e-9)


@pytest.mark.parametrize("scale", [0.8, 2.0, 7.0])
def test_a_sampled_crop_has_the_pixels_of_its_places(scale):
    """The image is a ramp, so that every sampled value is known, with and without antialiasing."""
    side = round(70 * scale)
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    ramp = np.dstack([x * 200 / side, y * 200 / side, np.full_like(x, 50)]).round().astype(np.uint8)
    sampling = np.array([[scale / DENSITY, 0, 10 * scale], [0, scale / DENSITY, 12 * scale]])
    crop = sample_crop(ramp, sampling, (WIDTH, HEIGHT))
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    expected = np.dstack([column * scale / DENSITY + 10 * scale, row * scale / DENSITY + 12 * scale]) * 200 / side
    assert np.abs(crop[..., :2] - expected)[2:-2, 2:-2].max() < 1.6
    assert (crop[2:-2, 2:-2, 2] == 50).all()


def test_the_painted_region_covers_the_opening_and_ends_before_the_border_of_the_crop():
    inner = np.zeros((HEIGHT, WIDTH), np.float32)
    inner[10:25, 20:50] = 1
    region = paint_region(inner)
    assert region[10:25, 20:50].min() > 0.97
    assert region[:4].max() == region[31:].max() == 0
    assert paint_region(np.ones_like(inner))[[0, -1]].max() == 0


def inference(network: MouthPainter | None) -> NetworkPainter | None:
    return NetworkPainter(torch_network(lambda: painter_module(network))) if network else None


def render(network: MouthPainter | None, target: np.ndarray, image: np.ndarray, known: float = 5.0) -> np.ndarray:
    """A closed face rendered with a network; a mouth so many units open is known, 0 for none."""
    renderer = MouthRenderer(painter=inference(network))
    if known:
        renderer.observe(image, Landmarks(pose().repose(shut_face() + opened(known)).astype(np.float32)), pose())
    return renderer.render(image, pose().repose(shut_face()), target, pose=pose())


def test_paint_appears_inside_the_lips_only():
    image, target = frame(), pose().repose(shut_face() + opened(12.0))
    before, after = render(None, target, image), render(painter(0.9), target, image)
    changed = (before != after).any(axis=2)
    rows, columns = np.nonzero(changed)
    ring = target[LIPS_OUTER, :2]
    assert changed.sum() > 500
    for places, edge in ((columns, ring[:, 0]), (rows, ring[:, 1])):
        assert edge.min() <= places.min() <= places.max() <= edge.max()


def test_nothing_is_painted_for_a_person_whose_mouth_was_never_seen_open():
    image, target = frame(), pose().repose(shut_face() + opened(9.0))
    for known in (0.0, 0.4):
        np.testing.assert_array_equal(*(render(network, target, image, known) for network in (None, painter(0.9))))


def test_the_paint_has_half_the_composites_color_smoothed_and_its_own_brightness():
    given, network = planes(1), painter(0.6)
    given["composite"] = torch.tensor([0.2, 0.4, 0.7])[None, :, None, None].expand(1, 3, HEIGHT, WIDTH)
    paint = network(given).paint[0]
    gray = 0.114 * 0.2 + 0.587 * 0.4 + 0.299 * 0.7
    for channel, value in zip(paint, (0.2, 0.4, 0.7), strict=True):
        assert (channel - (0.6 + 0.5 * (value - gray))).abs().max() < 0.005  # the color matrix has three digits
    speck = given["composite"].clone()
    speck[0, 2, 20, 36] = 1.0
    changed = network(given | {"composite": speck}).paint[0] - paint
    assert changed.abs().max() < 0.02


def test_a_painter_that_copies_leaves_the_composite_as_it_is():
    network = painter()
    network.head.weight.zero_()
    network.head.bias.copy_(torch.tensor([-20.0, 20.0, -20.0, 0]).repeat_interleave(4))
    image, target = frame(), pose().repose(shut_face() + opened(9.0))
    np.testing.assert_array_equal(render(None, target, image), render(network, target, image))


def test_a_retrieved_mouth_is_kept_and_only_the_rest_is_painted():
    """The bank's mouth is half as open as the target: its teeth stay, the arc below them is painted."""
    image, wide = frame() // 3 + 60, pose().repose(shut_face() + opened(12.0))
    images = [render(network, wide, image).astype(int) for network in (None, painter(0.9))]
    column, top = wide[LIPS_INNER[13:18], :2].mean(axis=0).round().astype(int)
    bottom = int(wide[LIPS_INNER[3:8], 1].mean())
    changed = np.abs(images[0] - images[1])[:, column - 3 : column + 4].max(axis=(1, 2))
    assert changed[top + 5 : top + 9].max() <= 6
    assert changed[bottom - 8 : bottom - 2].min() > 60


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights with spaces é.safetensors"
    checkpoint = painter().checkpoint(step=3)
    checkpoint.save(path)
    assert load_painter(path).config == PainterConfig((4, 4, 4), 1)
    type(checkpoint)(**{**checkpoint.__dict__, "crop": {"kind": "mouth plane", "width": 8}}).save(path)
    with pytest.raises(UsageError, match="paints crops"):
        load_painter(path)
    with pytest.raises(UsageError, match="widths"):
        PainterConfig((4, 4), 1)
