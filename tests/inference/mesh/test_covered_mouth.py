"""What stands before a mouth is left as it is, looked for only as often as needed, and never kept as a mouth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.mesh.person import LOOK_EVERY, MeshPerson
from preprocessing.faces.mesh import HeadPose, Landmarks
from preprocessing.faces.occlusion.mask import CELLS, OcclusionMask, occlusion_view
from tests.inference.mesh.test_planar_rendering import frame, plan  # noqa: F401  # fixtures
from tests.wav2lip.renderer.test_renderer import drawn


class Finder:
    """Finds the whole face covered in the looks of the given numbers."""

    def __init__(self, *covered: int) -> None:
        self.covered, self.looks = covered, 0

    def __call__(self, image: np.ndarray, points: np.ndarray, pose: HeadPose) -> OcclusionMask | None:
        self.looks += 1
        if self.looks - 1 not in self.covered:
            return None
        return OcclusionMask(occlusion_view(pose), np.ones((CELLS, CELLS), np.float32))


def shown(finder: Finder, frame: np.ndarray, plan, frames: int) -> list[bool]:  # noqa: F811
    """Whether the mouth moved, frame by frame."""
    person = MeshPerson(utterances=(), occlusion=finder)
    return [mouth_moves(person, frame, replace(plan, number=number)) for number in range(frames)]


def mouth_moves(person: MeshPerson, frame: np.ndarray, plan) -> bool:  # noqa: F811
    result = frame.copy()
    person.render(result, frame, plan, None)
    return bool((result != frame).any())


def test_a_free_mouth_is_looked_at_in_every_third_frame_and_a_covered_one_in_every_one(frame, plan):  # noqa: F811
    finder = Finder(1, 2)
    assert shown(finder, frame, plan, 9) == [True] * LOOK_EVERY + [False, False] + [True] * 4
    assert finder.looks == 5


def test_a_frame_shown_again_needs_no_other_look_and_stays_covered(frame, plan):  # noqa: F811
    finder = Finder(1)
    person = MeshPerson(utterances=(), occlusion=finder)
    order = [0, 3, 0, 3, 0]  # the first is free, and the others are no neighbors in the video
    moved = []
    for number in order:
        person._unseen = 0
        moved.append(mouth_moves(person, frame, replace(plan, number=number)))
    assert moved == [True, False, True, False, True]
    assert finder.looks == 2


@pytest.mark.parametrize(("covered", "kept"), [((), 1), ((0,), 0)])
def test_a_covered_mouth_is_not_kept(covered, kept):
    image, points = drawn(6)
    finder = Finder(*covered)
    person = MeshPerson(utterances=(), occlusion=finder)
    person.observe(image, Landmarks(points.astype(np.float32), 1.0))
    assert len(person.renderer.bank.entries) == kept
    assert finder.looks == 1


def test_a_shut_mouth_needs_no_look():
    image, points = drawn(0)
    finder = Finder()
    MeshPerson(utterances=(), occlusion=finder).observe(image, Landmarks(points.astype(np.float32), 1.0))
    assert finder.looks == 0


def test_mouths_of_the_frames_after_a_free_one_are_kept_without_another_look():
    finder = Finder(1)
    person = MeshPerson(utterances=(), occlusion=finder)
    for opening in (3, 6, 9, 12, 15):
        image, points = drawn(opening)
        person.observe(image, Landmarks(points.astype(np.float32), 1.0))
    assert finder.looks == 3  # at the first, the fourth and, since that is covered, the fifth
    assert len(person.renderer.bank.entries) == 4
