"""Lids found in drawn eyes, whose lids are known, and in a real face."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from preprocessing.faces.eyelids import CORNERS, find_eyelids
from preprocessing.faces.landmarks.predictor import load_landmarks
from preprocessing.faces.mesh import canonical_face

BOX = np.array([170, 45, 280, 190], np.float32)  # of the astronaut's face
ACROSS = np.linspace(0.1, 0.9, 17)


def drawn(upper: float, lower: float, *, scale: float = 3.0, lift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A face that is nothing but two eyes, whose arcs have these heights, in widths of the eye; `lift`: by which the
    mesh's corners lie too high."""
    picture = np.full((300, 400, 3), 170, np.uint8)
    points = scale * canonical_face() + np.array([0, 20, 0])
    for outer, inner in CORNERS:
        start, along = points[outer, :2].copy(), points[inner, :2] - points[outer, :2]
        down = np.array([-along[1], along[0]]) * np.sign(along[0])
        u = np.linspace(0, 1, 40)
        height = 4 * u * (1 - u)
        edges = np.concatenate([np.stack([u, -upper * height], 1), np.stack([u, lower * height], 1)[::-1]])
        outline = start + edges[:, :1] * along + (edges[:, 1:] + lift) * down
        cv2.fillPoly(picture, [np.rint(outline * 16).astype(np.int32)], (220, 220, 220), cv2.LINE_AA, 4)
        middle = start + 0.5 * along + (lift + (lower - upper) / 2) * down
        mask = np.zeros_like(picture)
        cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], (1, 1, 1), shift=4)
        iris = picture.copy()
        cv2.circle(iris, np.rint(middle).astype(int).tolist(), round(0.22 * float(np.hypot(*along))), (40, 40, 40), -1)
        picture = np.where(mask > 0, iris, picture)
        for edge, shade in ((edges[:40], 30), (edges[40:], 130)):
            line = start + edge[:, :1] * along + (edge[:, 1:] + lift) * down
            cv2.polylines(picture, [np.rint(line * 16).astype(np.int32)], False, (shade,) * 3, 2, cv2.LINE_AA, 4)
    return picture, points


@pytest.mark.parametrize(
    ("upper", "lower", "lift"), [(0.28, 0.12, 0), (0.2, 0.14, 0), (0.36, 0.12, 0), (0.28, 0.12, 0.08)]
)
def test_the_lids_of_drawn_eyes_are_found(upper, lower, lift):
    lids = find_eyelids(*drawn(upper, lower, lift=lift))
    assert lids is not None
    height = 4 * ACROSS * (1 - ACROSS)
    for eye in lids:
        assert np.abs(eye.upper_margin(ACROSS) - lift + upper * height).max() < 0.08
        assert np.abs(eye.lower_margin(ACROSS) - lift - lower * height).max() < 0.1


@pytest.fixture(scope="module")
def face() -> tuple[np.ndarray, np.ndarray]:
    picture = np.ascontiguousarray(astronaut()[..., ::-1])
    return picture, load_landmarks()(picture, BOX).points


@pytest.mark.parametrize(("turn", "scale"), [(0, 2.5), (12, 1.5), (-20, 1.2)])
def test_the_lids_turn_and_grow_with_the_picture(face, turn, scale):
    picture, points = face
    move = cv2.getRotationMatrix2D((226, 110), turn, scale)
    shown = cv2.warpAffine(picture, move, (512, 512), flags=cv2.INTER_CUBIC)
    there = points.copy()
    there[:, :2], there[:, 2] = points[:, :2] @ move[:, :2].T + move[:, 2], scale * points[:, 2]
    before, after = find_eyelids(picture, points), find_eyelids(shown, there)
    assert before is not None
    assert after is not None
    for one, other in zip(before, after, strict=True):
        assert np.abs(one.upper_margin(ACROSS) - other.upper_margin(ACROSS)).max() < 0.08
        assert np.abs(one.lower_margin(ACROSS) - other.lower_margin(ACROSS)).max() < 0.1


def test_nothing_is_found_where_there_is_no_open_eye(face):
    picture, points = face
    covered = picture.copy()
    covered[80:130, 190:270] = (120, 150, 190)
    for shown, there in (
        (covered, points),
        (np.random.default_rng(0).integers(0, 255, picture.shape, np.uint8), points),
        (cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA), points / 2),
        drawn(0.03, 0.05),
    ):
        assert find_eyelids(shown, there) is None


def test_nothing_is_found_in_a_face_turned_away():
    picture, points = drawn(0.28, 0.12)
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    assert find_eyelids(picture, (points - points.mean(0)) @ turn.T + points.mean(0)) is None
