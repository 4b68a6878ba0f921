"""Rendering in planes: the same picture as in BGR, and every plane stays as it was outside the region that moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.mesh.person import FramePlan, MeshPerson
from preprocessing.media.color_conversion import yuv_to_bgr
from preprocessing.media.planar_frame import PlanarFrame, planar_from_bgr
from tests.wav2lip.renderer.faces import opened, pose, shut_face
from tests.wav2lip.renderer.test_renderer import drawn
from wav2lip.renderer.lip_edges import lip_edges, with_lip_edges
from wav2lip.renderer.renderer import mouth_target, target_shape
from wav2lip.renderer.triangulation import vertices_in_frame
from wav2lip.renderer.warp import moving_area


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


def rendered(frame, plan: FramePlan):
    result = frame.copy()
    person().render(result, frame, plan, None)
    return result


def area_of(frame, plan: FramePlan):
    lips = with_lip_edges(plan.points, lip_edges(np.asarray(frame), plan.points))
    source, target = vertices_in_frame(lips, plan.pose), vertices_in_frame(plan.points, plan.pose, plan.target)
    return moving_area(frame.shape, source, target, float(plan.pose.scale))


def test_a_person_renders_like_its_renderer_and_leaves_the_input_as_it_was(frame, plan):
    before = frame.copy()
    made = rendered(frame, plan)
    np.testing.assert_array_equal(frame, before)
    assert (made != frame).any()
    whole = person().renderer.render(frame, plan.points, plan.target, pose=plan.pose)
    np.testing.assert_array_equal(made, whole)


def test_the_moving_area_has_even_corners_inside_the_frame(frame, plan):
    area = area_of(frame, plan)
    assert all(side % 2 == 0 for side in (area.left, area.top, area.right, area.bottom))
    assert (area.left, area.top) >= (0, 0)
    assert (area.right, area.bottom) <= (frame.shape[1], frame.shape[0])


def test_planar_frames_change_only_where_the_mouth_moves(frame, plan):
    planar = planar_from_bgr(frame, yuv_to_bgr("bt709", False))
    made = rendered(planar, plan)
    assert isinstance(made, PlanarFrame)
    expected = rendered(np.asarray(planar), plan)
    assert np.abs(np.asarray(made).astype(int) - expected).mean() < 0.5  # chroma has half the resolution
    area, (height, width) = area_of(planar, plan), frame.shape[:2]
    for plane, side in ((slice(0, height), 1), (slice(height, None), 2)):
        same = (made.planes[plane] == planar.planes[plane]).reshape(-1, height // side, width // side)
        assert not same.all()
        same[:, area.top // side : area.bottom // side, area.left // side : area.right // side] = True
        assert same.all()


def test_a_face_that_does_not_move_leaves_every_plane_as_it_was(frame, plan):
    planar = planar_from_bgr(frame, yuv_to_bgr("bt709", False))
    made = rendered(planar, replace(plan, target=plan.points.copy()))
    np.testing.assert_array_equal(made.planes, planar.planes)
