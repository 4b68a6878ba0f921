"""Points of frames between two looks: even motion is interpolated, uneven motion looked at."""

import numpy as np
import pytest

from preprocessing.faces.landmarks.between import FramesBetween, blend
from preprocessing.faces.landmarks.tracker import LandmarkTracker, LandmarkTrackerConfig, face_box
from preprocessing.faces.mesh import STABLE, HeadPose, Landmarks, canonical_face

BLANK = np.zeros((8, 8, 3), np.uint8)


def face_at(x: float) -> Landmarks:
    pose = HeadPose(np.array(1.0), np.eye(3), np.array([x, 40.0, 0.0]))
    return Landmarks(pose.repose(canonical_face()).astype(np.float32))


def frame(number: int) -> np.ndarray:
    picture = np.full((240, 320, 3), 100, np.uint8)
    picture[0, 0] = number
    return picture


class Networks:
    """A face at known places, by the number in a frame's first pixel; counts the looks."""

    def __init__(self, places) -> None:
        self.places, self.whole, self.mouths = places, [], []

    def look(self, picture, near):
        self.whole.append(int(picture[0, 0, 0]))
        return face_at(self.places[int(picture[0, 0, 0])])

    def refine(self, picture, near):
        self.mouths.append(int(picture[0, 0, 0]))
        return near

    def detector(self, frames):
        from preprocessing.faces.face_track import Detection

        return [[Detection(face_box(self.look(one, None)).astype(np.float32), 0.9)] for one in frames]

    def middles(self, **values):
        config = LandmarkTrackerConfig(detect_side=640, **values)
        tracker = LandmarkTracker(self.look, self.detector, config, refine=self.refine)
        return [found.points[STABLE, 0].mean() for found in tracker(frame(k) for k in range(len(self.places)))]


def test_halfway_means_halfway_and_no_surer_than_either_end():
    middle = blend(Landmarks(face_at(0).points, 0.9), Landmarks(face_at(8).points, 0.7), 0.25)
    assert np.allclose(middle.points, face_at(2).points, atol=1e-5)
    assert middle.presence == 0.7


def test_a_steady_head_is_looked_at_at_both_ends_only():
    networks = Networks(np.arange(9.0) * 3)
    between = FramesBetween(networks.look, networks.refine)
    speed = np.tile([3.0, 0.0], (len(STABLE), 1))
    points = between.points([frame(k) for k in (1, 2, 3)], face_at(0), face_at(12), speed)
    assert (networks.whole, networks.mouths) == ([], [1, 2, 3])
    assert np.allclose([one.points for one in points], [face_at(x).points for x in (3, 6, 9)], atol=1e-4)


def test_a_jerk_is_looked_at_in_every_frame():
    networks = Networks([0.0, 20.0, 20.0, 20.0, 20.0])
    between = FramesBetween(networks.look, networks.refine)
    points = between.points([frame(k) for k in (1, 2, 3)], face_at(0), face_at(20), np.zeros((len(STABLE), 2)))
    assert networks.whole == [2, 1, 3]
    assert np.allclose([one.points[STABLE, 0].mean() - face_at(0).points[STABLE, 0].mean() for one in points], 20)


@pytest.mark.parametrize("stride", [2, 3])
def test_the_tracker_looks_less_often_at_a_steady_head_and_keeps_its_path(stride):
    places = np.arange(24.0) * 2
    networks = Networks(places)
    found = networks.middles(stride=stride, every=100)
    assert len(networks.whole) <= 24 / stride + 4
    assert np.allclose(found, [face_at(x).points[STABLE, 0].mean() for x in places], atol=0.6)


def test_a_lost_face_is_looked_for_frame_by_frame():
    networks = Networks(np.r_[np.zeros(6), np.full(7, 150.0)])  # leaps without a cut
    found = networks.middles(stride=2)
    start = face_at(0).points[STABLE, 0].mean()
    assert np.allclose(found, start + networks.places, atol=0.01)
