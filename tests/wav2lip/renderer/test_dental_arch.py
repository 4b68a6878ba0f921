"""Drawn teeth and tongue: where they are, what color they have, and that teeth stay with head and jaw."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, Landmarks
from tests.wav2lip.renderer.faces import SCALE, frame, opened, pose, shut_face
from wav2lip.renderer.dental_arch import (
    LOWER,
    UPPER,
    UPPER_EDGE,
    MouthGrid,
    draw_teeth,
    draw_tongue,
    tongue_color,
    tooth_color,
)
from wav2lip.renderer.inner_mouth import mouth_plane, teeth_place, to_mouth_plane
from wav2lip.renderer.mouth_fill import DARK
from wav2lip.renderer.renderer import MouthRenderer


def grid(across: np.ndarray, down: np.ndarray, floor: float = 14.0) -> MouthGrid:
    """Points in a mouth 40 units wide whose upper lip is at rest and whose lower lip is at `floor`."""
    across, down = np.broadcast_arrays(across, down)
    ceiling = np.zeros(across.shape)
    return MouthGrid(across, down, ceiling, ceiling + floor, 20 - np.abs(across), 40.0, floor)


def test_crowns_have_their_widths_and_are_darker_where_they_meet():
    across = np.arange(-17, 17, 0.01)
    _, bright = draw_teeth(grid(across, np.array(1.0)))
    minima = np.flatnonzero((bright[1:-1] < bright[:-2]) & (bright[1:-1] <= bright[2:])) + 1
    ends = np.cumsum(UPPER.widths)[:-1]
    expected = np.sort([*-ends, 0, *ends])
    np.testing.assert_allclose(across[minima], expected, atol=0.3)
    assert bright[minima].max() < bright[np.searchsorted(across, 0.5 * UPPER.widths[0])]


def test_upper_teeth_reach_their_edge_and_lower_teeth_follow_the_lower_lip():
    down = np.arange(0, 14, 0.05)
    middle = 0.5 * UPPER.widths[0]
    shown = []
    for floor in (8.0, 12.0):
        points = grid(np.array(middle), down, floor)
        alpha, _ = draw_teeth(points)
        upper, lower = np.flatnonzero((alpha > 0.5) & (down < 4)), np.flatnonzero((alpha > 0.5) & (down > 4))
        edge = points.lower_edge[0]
        assert abs(down[upper.max()] - UPPER_EDGE) < 0.6
        assert abs(down[lower.min()] - edge) < 0.6
        assert alpha[(down > UPPER_EDGE + 1.2) & (down < edge - 1.2)].max() < 0.01, "dark between them"
        shown.append(floor - edge)
    assert 0 < shown[0] < shown[1], "the wider the mouth, the more of the lower teeth"
    assert sum(LOWER.widths) < sum(UPPER.widths)


def test_a_tongue_lies_behind_the_lower_teeth_of_a_wide_mouth_only():
    down = np.arange(0, 14, 0.05)
    for floor in (2.0, 4.0):
        assert draw_tongue(grid(np.array(0.0), down, floor)).max() == 0
    points = grid(np.array(0.0), down, 14.0)
    alpha = draw_tongue(points)
    assert alpha[down < UPPER_EDGE + 1].max() < 0.01
    assert alpha[(down > points.lower_edge[0] - 2) & (down < 13)].min() > 0.9
    assert (np.diff(alpha) >= 0).all(), "no gap between tongue and teeth"
    assert draw_tongue(grid(np.array(18.0), down, 14.0)).max() == 0, "narrower than the mouth"
    lips, skin = np.array([78.0, 81, 168]), np.array([139.0, 163, 193])
    assert (tongue_color(lips, skin) < 0.7 * skin).all()


def test_teeth_are_brighter_than_lips_and_skin_in_their_light_and_gray_in_a_gray_picture():
    lips, skin, gray = np.array([90.0, 88, 160]), np.array([110.0, 125, 185]), np.full(3, 100.0)
    color = tooth_color(lips, skin)
    assert color.mean() > 1.3 * lips.mean()
    assert color.mean() > 1.1 * skin.mean()
    assert 0 < np.ptp(color / color.mean()) < np.ptp(skin / skin.mean())
    painted_lips = tooth_color(np.array([60.0, 20, 230]), skin)
    np.testing.assert_allclose(painted_lips / painted_lips.mean(), color / color.mean(), atol=1e-6)
    assert np.ptp(tooth_color(gray, gray)) == 0
    assert tooth_color(lips + 70, skin + 65).max() <= 246


def mouth(renderer: MouthRenderer, by: float) -> tuple[np.ndarray, np.ndarray]:
    """A closed face rendered open by `by` units, and its inner lip ring in pixels."""
    points = pose().repose(shut_face())
    target = pose().repose(shut_face() + opened(by))
    return renderer.render(frame() // 3 + 60, points, target, pose=pose()), target[LIPS_INNER, :2]


def test_a_photo_shows_the_same_upper_teeth_at_every_opening():
    """Head-fixed: the same pixels, wherever they are between the lips, at two openings; so the teeth never flicker."""
    images = [mouth(MouthRenderer(), by)[0].astype(int) for by in (8.0, 12.0)]
    place = teeth_place(to_mouth_plane(pose().repose(shut_face())[LIPS_INNER], mouth_plane(pose())))
    corner = mouth_plane(pose()) @ [place[0] - 6, place[1] + 0.5, 1]
    width, height = round(12 * SCALE), round(1.5 * SCALE)
    left, top = corner.round().astype(int)
    parts = [image[top : top + height, left : left + width] for image in images]
    assert np.abs(parts[0] - parts[1]).max() <= 12
    assert parts[0].mean() > 1.3 * images[0][top + round(5 * SCALE), left : left + width].mean()


def test_teeth_are_drawn_only_for_a_person_who_never_shows_them():
    points = pose().repose(shut_face() + opened(9.0))
    image = frame() // 3 + 60
    renderer = MouthRenderer()
    renderer.observe(image, Landmarks(points.astype(np.float32)), pose())
    assert len(renderer.bank.entries) == 1
    shown, ring = mouth(renderer, 9.0)
    drawn, _ = mouth(MouthRenderer(), 9.0)
    column, row = (ring[13:18].mean(axis=0) + np.array([0, 1.2 * SCALE])).round().astype(int)
    near = np.s_[row - 3 : row + 4, column - 8 : column + 9]
    assert np.abs(shown[near].astype(int) - drawn[near]).mean() > 12
    hardly = MouthRenderer()
    hardly.observe(image, Landmarks(pose().repose(shut_face() + opened(0.9)).astype(np.float32)), pose())
    assert len(hardly.bank.entries) == 1
    np.testing.assert_array_equal(mouth(hardly, 9.0)[0][row, column], drawn[row, column])


def test_below_a_known_mouth_a_tongue_is_drawn_and_no_teeth():
    """A mouth of white teeth, 5 units open, is shown 14 units open: it does not reach down to the lower lip."""
    lips, skin = np.array([80.0, 85, 165]), np.array([120.0, 140, 190])
    images = []
    for by in (0.0, 5.0):
        points = pose().repose(shut_face() + opened(by))
        image = np.full_like(frame(), skin)
        for ring, color in ((LIPS_OUTER, lips), (LIPS_INNER, (225, 225, 225))):
            cv2.fillPoly(image, [np.round(points[ring, :2] * 16).astype(np.int32)], color, cv2.LINE_AA, 4)
        images.append((image, points))
    renderer = MouthRenderer()
    for image, points in images:
        renderer.observe(image, Landmarks(points.astype(np.float32)), pose())
    target = pose().repose(shut_face() + opened(14.0))
    made = renderer.render(*images[0], target, pose=pose()).astype(float)
    ring = target[LIPS_INNER, :2]
    column, top, bottom = ring[:, 0].mean(), ring[13:18, 1].mean(), ring[3:8, 1].mean()
    across = np.s_[round(column - 2 * SCALE) : round(column + 2 * SCALE)]
    assert made[round(top + 2 * SCALE) : round(top + 4 * SCALE), across].min() > 200, "the known mouth"
    below = made[round(bottom - 4 * SCALE) : round(bottom - 2 * SCALE), across]
    to_tongue, to_dark = (np.linalg.norm(below - color, axis=2) for color in (tongue_color(lips, skin), DARK))
    assert (to_tongue < to_dark).all()
    brightest = made[round(bottom - 4 * SCALE) : round(bottom), across].mean(axis=2).max()
    assert brightest < 0.6 * tooth_color(lips, skin).mean()


def test_teeth_are_drawn_alike_at_every_size_of_the_face():
    """In a picture four times as large they are drawn coarser than its pixels: the same teeth, not shifted."""
    images = []
    for factor in (1, 4):
        here = pose(SCALE * factor, 60.5 * factor - 0.5, 40.5 * factor - 0.5)
        target, points = (here.repose(shut_face() + shape) for shape in (opened(9.0), 0))
        picture = np.full((frame().shape[0] * factor, frame().shape[1] * factor, 3), 130, np.uint8)
        made = MouthRenderer().render(picture, points, target, pose=here)
        images.append(cv2.resize(made, frame().shape[1::-1], interpolation=cv2.INTER_AREA).astype(int))
    assert (images[0] != 130).any(axis=2).sum() > 300
    assert np.abs(images[0] - images[1]).mean(axis=2).max() < 25


def test_a_gray_photo_stays_gray():
    gray = np.repeat(frame()[..., :1] // 3 + 60, 3, axis=2)
    target = pose().repose(shut_face() + opened(9.0))
    made = MouthRenderer().render(gray, pose().repose(shut_face()), target, pose=pose()).astype(int)
    assert np.abs(made - gray).max() > 50
    assert np.ptp(made, axis=2).max() <= 2


def test_the_place_of_the_teeth_is_the_mean_of_the_closed_mouths():
    renderer, places = MouthRenderer(), []
    for shift in (0.0, 0.4, 0.8):
        face = shut_face()
        face[np.concatenate([LIPS_INNER, LIPS_OUTER]), 1] += shift
        points = pose().repose(face)
        renderer.observe(frame(), Landmarks(points.astype(np.float32)), pose())
        places.append(teeth_place(to_mouth_plane(points[LIPS_INNER], mouth_plane(pose()))))
    found = renderer.bank.teeth()
    assert found is not None
    np.testing.assert_allclose(found, np.mean(places, axis=0), atol=1e-3)
