"""A mouth that no frame shows is painted once, from the best view of the face."""

from __future__ import annotations

import numpy as np
import pytest

from inference.mesh.person import MeshPerson
from preprocessing.faces.mesh import Landmarks, lower_face
from tests.wav2lip.renderer.faces import opened, pose, shut_face
from tests.wav2lip.renderer.test_renderer import drawn
from wav2lip.renderer.painter_inference import NetworkPainter
from wav2lip.renderer.painter_inputs import HEIGHT, WIDTH
from wav2lip.renderer.renderer import MouthRenderer


def painted_red(stacked):
    """A network that paints red."""
    weights = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    weights[:, 2] = 1
    return weights, np.tile(np.array([0, 0, 1], np.float32)[:, None, None], (1, 1, HEIGHT, WIDTH))


def test_a_mouth_that_no_frame_shows_is_imagined_from_the_most_frontal_one():
    person = MeshPerson((), renderer=MouthRenderer(painter=NetworkPainter(painted_red)))
    wide = opened(8)[lower_face()]
    person.imagine(shut_face(), wide)
    assert not person.renderer.bank.entries, "nobody was seen"
    image, _ = drawn(0)
    for yaw in (-25, 2, 20):
        person.observe(image, Landmarks(pose(yaw=yaw).repose(shut_face()).astype(np.float32)))
    person.imagine(shut_face(), wide)
    (mouth,) = person.renderer.bank.entries
    assert mouth.angles[0] == pytest.approx(2, abs=0.5)
    middle = mouth.plane[:, :2] @ mouth.ring.mean(0) + mouth.plane[:, 2]
    blue, green, red = mouth.pixels[round(middle[1]), round(middle[0])].astype(int)
    assert red > 150 > 2 * max(blue, green)


def test_a_person_who_opens_their_mouth_keeps_their_own():
    person = MeshPerson((), renderer=MouthRenderer(painter=NetworkPainter(painted_red)))
    for height in (0, 8, 0):
        image, points = drawn(height)
        person.observe(image, Landmarks(points.astype(np.float32)))
    before = list(person.renderer.bank.entries)
    person.imagine(shut_face(), opened(8)[lower_face()])
    assert person.renderer.bank.entries == before != []
