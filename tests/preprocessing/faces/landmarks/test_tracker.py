"""The tracker: detector calls, cuts, lost faces, and output order."""

import numpy as np
import pytest

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import Detection
from preprocessing.faces.landmarks.smoothing import SmoothingConfig
from preprocessing.faces.landmarks.tracker import LandmarkTracker, LandmarkTrackerConfig, face_box
from preprocessing.faces.mesh import HeadPose, Landmarks, canonical_face

SIZE = (240, 320)


def face_at(x: float, y: float, scale: float = 0.8) -> Landmarks:
    pose = HeadPose(np.array(scale), np.eye(3), np.array([x - 64 * scale, y - 66 * scale, 0.0]))
    return Landmarks(pose.repose(canonical_face()).astype(np.float32))


class Scene:
    """Gray frames with the frame number in one pixel; a moving face; a network that finds the face if started near it,
    and a detector that records its calls."""

    def __init__(self, places: list[tuple[float, float] | None], presence: float = 1.0) -> None:
        self.places, self.presence = places, presence
        self.asked: list[int] = []
        self.now = 0
        self.drift = np.zeros(2)

    def frames(self):
        for k in range(len(self.places)):
            frame = np.full((*SIZE, 3), 100, np.uint8)
            frame[0, 0] = k
            yield frame

    def network(self, frame, near):
        place = self.places[int(frame[0, 0, 0])]
        box = face_box(near) if isinstance(near, Landmarks) else near
        middle = (box[:2] + box[2:]) / 2
        if place is None or np.abs(middle - place).max() > 60:
            return Landmarks(face_at(*middle).points, 0.05)
        if isinstance(near, Landmarks):
            place = np.array(place) + self.drift
        return Landmarks(face_at(*place).points, self.presence)

    def detector(self, frames):
        now = int(frames[0][0, 0, 0])
        self.asked.append(now)
        place = self.places[now]
        return [[] if place is None else [Detection(face_box(face_at(*place)).astype(np.float32), 0.9)]]

    def track(self, **values):
        config, smoothing = LandmarkTrackerConfig(**values), SmoothingConfig(reach=0)
        return list(LandmarkTracker(self.network, self.detector, config, smoothing)(self.frames()))


def middles(found):
    return np.array([(face_box(one)[:2] + face_box(one)[2:]) / 2 for one in found])


def test_a_moving_face_is_followed_and_the_detector_asked_now_and_then():
    places = [(100 + 2.0 * k, 120.0) for k in range(60)]
    scene = Scene(places)
    found = scene.track(every=25)
    assert np.allclose(middles(found), places, atol=4)
    assert scene.asked == [0, 25, 50]


def test_frames_without_a_face_give_none_and_it_is_taken_up_again():
    places = [None] * 12 + [(150.0, 100.0)] * 10 + [None] * 15 + [(200.0, 120.0)] * 10
    found = Scene(places).track(retry=3)
    assert [one is not None for one in found[:12]] == [False] * 12
    assert all(one is not None for one in found[15:22])
    assert all(one is None for one in found[25:37])
    assert all(one is not None for one in found[40:])


def test_a_drifted_face_is_taken_up_where_the_detector_sees_it():
    scene = Scene([(150.0, 120.0)] * 45)
    scene.drift = np.array([50.0, 0])  # the network always predicts too far right, as if stuck on the background
    found = scene.track(every=20)
    assert np.allclose(middles(found)[20], (150, 120), atol=4)


def test_a_covered_mouth_keeps_its_low_presence_and_its_place():
    scene = Scene([(150.0, 120.0)] * 20, presence=0.2)
    found = scene.track(retry=5)
    assert [one.presence for one in found] == [0.2] * 20
    assert 2 < len(scene.asked) < 6


def test_a_cut_begins_anew():
    scene = Scene([(90.0, 120.0)] * 10 + [(220.0, 100.0)] * 10)

    def frames():
        for k, frame in enumerate(scene.frames()):
            frame[1:] = (30, 60, 200) if k < 10 else (200, 90, 20)
            yield frame

    config = LandmarkTrackerConfig(every=100)
    found = list(LandmarkTracker(scene.network, scene.detector, config)(frames()))
    assert scene.asked == [0, 10]
    assert np.allclose(middles(found)[10], (220, 100), atol=4)  # not smoothed across the cut


def test_points_come_a_fixed_lag_late():
    scene = Scene([(150.0, 120.0)] * 12)
    tracker = LandmarkTracker(scene.network, scene.detector)
    counts = [len(tracker.push(frame)) for frame in scene.frames()]
    assert counts == [0] * tracker.max_lag + [1] * (12 - tracker.max_lag)
    assert len(tracker.finish()) == tracker.max_lag


def test_smoothed_points_keep_their_order_where_a_face_comes_and_goes():
    places = [None] * 6 + [(100.0 + 2 * k, 120.0) for k in range(12)] + [None] * 12 + [(200.0, 100.0)] * 9
    scene = Scene(places)
    found = list(LandmarkTracker(scene.network, scene.detector, LandmarkTrackerConfig(retry=1))(scene.frames()))
    assert [one is not None for one in found] == [place is not None for place in places]
    seen = [place for place in places if place is not None]
    assert np.allclose(middles([one for one in found if one is not None]), seen, atol=4)


@pytest.mark.parametrize("values", [{"every": 0}, {"select": "tallest"}, {"least_presence": 2.0}])
def test_impossible_options_are_refused(values):
    with pytest.raises(UsageError):
        LandmarkTrackerConfig(**values)
