"""Patches: a region rendered by itself is that of the whole frame, and pasting leaves all else as it was."""

from __future__ import annotations

import numpy as np
import pytest

from inference.mesh.patch import moving_area, pasted
from inference.mesh.person import FramePlan, MeshPerson
from preprocessing.media.color_conversion import yuv_to_bgr
from preprocessing.media.planar_frame import PlanarFrame, planar_from_bgr
from tests.wav2lip.renderer.faces import opened, pose, shut_face
from tests.wav2lip.renderer.test_renderer import drawn
from wav2lip.renderer.renderer import mouth_target, target_shape


@pytest.fixture(scope="module")
def plan() -> FramePlan:
    _, points = drawn(3)
    head = pose()
    target = target_shape(points, shut_face(), opened(8), pose=head)
    return FramePlan(0, points, head, target, 1.0, mouth_target(head, target))


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    image, _ = drawn(3)
    return np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])


def person() -> MeshPerson:
    return MeshPerson(utterances=())


def test_a_region_is_rendered_as_in_the_whole_frame(frame, plan):
    before = frame.copy()
    made = pasted(frame, [person().render(frame, plan, None)])
    whole = person().renderer.render(frame, plan.points, plan.target, pose=plan.pose)
    np.testing.assert_array_equal(frame, before)
    assert (made != frame).any()
    assert (made != whole).mean() < 1e-3  # rounding of shifted coordinates
    assert np.abs(made.astype(int) - whole).max() <= 2


def test_the_region_has_even_corners_inside_the_frame(frame, plan):
    area = moving_area(frame, plan.points, plan.target, plan.pose)
    assert all(side % 2 == 0 for side in (area.left, area.top, area.right, area.bottom))
    assert (area.left, area.top) >= (0, 0)
    assert (area.right, area.bottom) <= (frame.shape[1], frame.shape[0])


def test_planar_frames_change_only_where_the_mouth_moves(frame, plan):
    planar = planar_from_bgr(frame, yuv_to_bgr("bt709", False))
    made = pasted(planar, [person().render(planar, plan, None)])
    assert isinstance(made, PlanarFrame)
    expected = pasted(np.asarray(planar), [person().render(np.asarray(planar), plan, None)])
    assert np.abs(np.asarray(made).astype(int) - expected).mean() < 0.5  # chroma has half the resolution
    area, (height, width) = moving_area(planar, plan.points, plan.target, plan.pose), frame.shape[:2]
    for plane, side in ((slice(0, height), 1), (slice(height, None), 2)):
        same = (made.planes[plane] == planar.planes[plane]).reshape(-1, height // side, width // side)
        assert not same.all()
        same[:, area.top // side : area.bottom // side, area.left // side : area.right // side] = True
        assert same.all()


def test_without_patches_the_frame_itself_is_returned(frame):
    assert pasted(frame, []) is frame
