"""The bank of inner mouths and the mouth fill."""

import cv2
import numpy as np
import pytest

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, canonical_face
from tests.wav2lip.renderer.faces import frame, opened, pose, shut_face
from wav2lip.renderer.inner_mouth import (
    BankConfig,
    InnerMouthBank,
    crop_mouth,
    gaps,
    mouth_plane,
    skin_color,
    to_mouth_plane,
)
from wav2lip.renderer.mouth_fill import cavity, coverage


def fill(bank: InnerMouthBank, count: int = 80, seed: int = 0, scale: float = 1.0) -> InnerMouthBank:
    rng = np.random.default_rng(seed)
    image = frame(round(200 * scale), round(190 * scale))
    for _ in range(count):
        head = pose(scale, 10 * scale, 10 * scale, yaw=rng.uniform(-20, 20))
        bank.observe(image, head.repose(shut_face() + opened(rng.uniform(0, 15))))
    return bank


def test_the_bank_is_bounded_and_deterministic() -> None:
    banks = [fill(InnerMouthBank(BankConfig(size=12))) for _ in range(2)]
    assert len(banks[0].entries) == 12
    assert [a.number for a in banks[0].entries] == [b.number for b in banks[1].entries]


def test_memory_is_bounded_for_great_pictures() -> None:
    bank = fill(InnerMouthBank(BankConfig(size=4, max_side=64)), count=12, scale=4.0)
    assert len(bank.entries) == 4
    assert bank.nbytes <= 4 * 64 * 64 * 3


def test_shut_mouths_are_not_kept() -> None:
    bank = InnerMouthBank()
    assert not bank.observe(frame(), pose().repose(shut_face()))
    assert bank.entries == []
    assert bank.dark() is None


def test_a_stream_keeps_the_extremes() -> None:
    bank = InnerMouthBank(BankConfig(size=4))
    image = frame()
    for height in [5.0, 5.6, 6.2, 6.8, 7.4, 14.0, 2.0]:
        bank.observe(image, pose().repose(shut_face() + opened(height)))
    heights = [entry.opening for entry in bank.entries]
    assert max(heights) > 10
    assert min(heights) < 3


def test_a_mouth_beyond_the_edge_is_refused() -> None:
    points = pose(x=-130).repose(canonical_face())
    assert crop_mouth(frame(), points, HeadPose.of(points)) is None


def test_the_plane_is_fixed_to_the_head() -> None:
    face = shut_face() + opened(6)
    rings = []
    for head in (pose(), pose(1.7, 20, 30), pose(2.0, 90, 10, yaw=8)):
        rings.append(to_mouth_plane(head.repose(face), mouth_plane(head)))
    np.testing.assert_allclose(rings[0], rings[1], atol=1e-9)
    assert np.abs(rings[0] - rings[2]).max() < 10  # points off the plane shift when the head turns


def test_gaps_of_a_ring() -> None:
    face = shut_face() + opened(6)
    head = pose()
    ring = to_mouth_plane(head.repose(face)[LIPS_INNER], mouth_plane(head))
    np.testing.assert_allclose(gaps(ring), 6.3, atol=1e-6)


def test_the_color_of_skin_is_that_around_the_lips_even_at_the_border_of_the_frame() -> None:
    points = pose().repose(shut_face() + opened(6))
    lips = np.round(points[LIPS_OUTER, :2]).astype(np.int32)
    skin = (110, 125, 185)
    image = np.zeros_like(frame())
    middle = lips.mean(axis=0)
    cv2.fillPoly(image, [np.round(middle + 1.8 * (lips - middle)).astype(np.int32)], skin)
    cv2.fillPoly(image, [lips], (80, 80, 170))
    np.testing.assert_array_equal(skin_color(image, points), skin)
    bottom = int(middle[1])
    np.testing.assert_array_equal(skin_color(image[: lips[:, 1].max() + 8], points), skin)
    assert skin_color(image[:bottom, : int(middle[0])], points).shape == (3,)


def test_a_thin_slit_is_a_faint_line_without_holes() -> None:
    x = np.linspace(4, 36, 11)
    ring = np.vstack([np.column_stack([x, np.full(11, 10.2)]), np.column_stack([x[9:0:-1], np.full(9, 10.0)])])
    cover = coverage(ring, 40, 20)
    line = cover.sum(axis=0)[6:35]
    assert line.min() > 0.05
    assert line.max() - line.min() < 0.3


def test_the_cavity_is_darkest_in_its_depth_and_smooth() -> None:
    cover = np.zeros((60, 80), np.float32)
    cover[15:45, 15:65] = 1
    lips, dark = np.array([90.0, 80, 180]), np.array([20.0, 18, 40])
    shade = cavity(cover, lips, dark, 2.5)
    assert shade[28, 40].sum() < shade[44, 40].sum()
    assert shade[28, 40].sum() < shade[15, 40].sum()
    assert np.abs(np.diff(shade[15:45, 40], axis=0)).max() < 45


@pytest.mark.parametrize("values", [{"size": 0}, {"max_side": 4}])
def test_a_bank_without_room_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="a bank needs"):
        BankConfig(**values)
