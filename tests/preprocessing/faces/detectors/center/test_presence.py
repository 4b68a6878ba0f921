"""What the detector doubts, the landmark network decides."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.faces.detectors.center.presence import CERTAIN, PresenceCheck
from preprocessing.faces.face_track import Detection
from preprocessing.faces.landmarks.views import View
from preprocessing.faces.mesh import canonical_face

FRAME, FACE = np.zeros((200, 200, 3), np.uint8), canonical_face().astype(np.float64)
BOX = np.concatenate([FACE[:, :2].min(0), FACE[:, :2].max(0)]).astype(np.float32)


class Network:
    """Sees a face as surely as told, look by look."""

    def __init__(self, *presence: float) -> None:
        self.presence, self.loads = list(presence), 0

    def load(self) -> Network:
        self.loads += 1
        return self

    def points(self, frame: np.ndarray, view: View) -> tuple[np.ndarray, float]:
        assert view.side > 0
        return FACE, self.presence.pop(0)


def checked(network: Network, score: float, box: np.ndarray = BOX) -> Detection | None:
    return PresenceCheck(network.load)(FRAME, Detection(box, score), 0.25)  # type: ignore[arg-type]


@pytest.mark.parametrize(("looks", "expected"), [((0.6, 0.8), 0.35), ((1.0, 0.1), 0.275)])
def test_a_doubted_face_keeps_the_share_that_is_seen(looks, expected):
    network = Network(*looks)
    found = checked(network, 0.5)
    assert found is not None
    assert found.score == pytest.approx(expected)
    assert np.array_equal(found.box, BOX)
    assert network.presence == []


def test_what_the_network_does_not_see_is_no_face():
    assert checked(Network(0.1, 0.2), 0.5) is None
    unseen = Network(0.1, 0.9)
    assert checked(unseen, 0.4) is None
    assert unseen.presence == [0.9], "even a full second look would not have been enough"


def test_a_box_beside_the_face_that_is_seen_is_no_face():
    width = BOX[2] - BOX[0]
    assert checked(Network(1, 1), 0.5, BOX + 0.2 * width * np.array([1, 0, 1, 0], np.float32)) is not None
    assert checked(Network(1, 1), 0.5, BOX + 0.4 * width * np.array([1, 0, 1, 0], np.float32)) is None


def test_a_certain_face_is_not_looked_at():
    network = Network()
    assert checked(network, CERTAIN) == Detection(BOX, CERTAIN)
    assert network.loads == 0
