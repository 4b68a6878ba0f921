"""Single-face tracking on a synthetic video with a scripted detector, and on a real clip."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import estimate_points
from preprocessing.faces.tracking import MultiFaceTracker, stream_face_track, track_face
from tests.preprocessing.faces.scripted import SIDE, SIZE, Scripted, at, blank, centres, moving, numbered, scene, still


def straight(count: int, speed: float = 2.3) -> np.ndarray:
    return np.array([(100 + speed * i, 110 + 0.4 * i) for i in range(count)])


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("make", [moving, lambda path: blank(len(path))], ids=["seen", "blank"])
def test_a_face_in_steady_motion_is_followed_without_lag(make, every: int) -> None:
    path = straight(50)
    track = track_face(make(path), Scripted(lambda i: [at(*path[i])]), every=every)
    assert track.found.all()
    assert np.abs(centres(track) - path).max() < 0.6
    np.testing.assert_allclose(track.boxes[:, 2] - track.boxes[:, 0], SIDE, rtol=0.02)
    expected = np.stack([estimate_points(at(*place)) for place in path])
    assert np.abs(track.points - expected).max() < 1.0


@pytest.mark.parametrize(("every", "left"), [(1, 0.4), (5, 0.6)])
def test_a_detectors_noise_is_smoothed_away_without_lag(every: int, left: float) -> None:
    path, noise = straight(60), np.random.default_rng(0).normal(0, 3, (60, 4))
    track = track_face(moving(path), Scripted(lambda i: [at(*path[i]) + noise[i]]), every=every)
    error = centres(track) - path
    assert error.std() < left * 3 / np.sqrt(2)  # a centre averages two corners
    assert abs(error[:, 0].mean()) < 0.5 * 2.3  # half a frame's way


def test_a_nod_is_kept_where_plain_smoothing_would_flatten_it() -> None:
    path = np.array([(180, 120 + 12 * np.sin(2 * np.pi * i / 12)) for i in range(60)])  # 2 Hz at 25 frames a second
    track = track_face(moving(path), Scripted(lambda i: [at(*path[i])]))
    assert np.abs(centres(track) - path).max() < 1.5


def test_without_smoothing_the_path_meets_every_detection() -> None:
    path, noise = straight(41), np.random.default_rng(1).normal(0, 2, (41, 4))
    boxes = [at(*place) + shift for place, shift in zip(path, noise, strict=True)]
    track = track_face(moving(path), Scripted(lambda i: [boxes[i]]), smooth=0)
    np.testing.assert_allclose(track.boxes[::5], boxes[::5], atol=0.01)


def test_the_detector_is_asked_on_key_frames_only() -> None:
    detector = Scripted(lambda i: [at(180, 120)])
    track_face(still(41), detector, every=5)
    assert detector.asked == list(range(0, 41, 5))


def test_a_missing_face_is_looked_for_at_once_and_a_short_gap_is_filled() -> None:
    path = straight(50)
    detector = Scripted(lambda i: [] if 18 <= i < 26 else [at(*path[i])])
    track = track_face(moving(path), detector)
    assert detector.asked[4:12] == [20, 21, 22, 23, 24, 25, 26, 31]
    assert track.found.all()
    assert np.abs(centres(track) - path).max() < 1.0


def test_where_the_flow_fails_every_frame_is_a_key_frame() -> None:
    detector = Scripted(lambda i: [] if i >= 9 else [at(100 + 20 * i, 120)])
    track = track_face(blank(30), detector, smooth=0)
    assert detector.asked[:12] == list(range(12))
    assert track.found.tolist() == [i < 9 for i in range(30)]
    np.testing.assert_allclose(centres(track)[:9, 0], 100 + 20.0 * np.arange(9), atol=0.01)


def test_a_long_gap_stays_empty() -> None:
    track = track_face(still(80), Scripted(lambda i: [] if 20 <= i < 50 else [at(180, 120)]))
    # Seen last at 15 and carried until the look at 20; seen again by the look at 50 or soon after.
    assert track.found[:20].all()
    assert not track.found[20:50].any()
    assert track.found[53:].all()
    assert np.isnan(track.boxes[30]).all()
    assert np.isnan(track.points[30]).all()
    np.testing.assert_allclose(centres(track)[track.found], [[180, 120]] * track.found.sum(), atol=0.01)


def test_one_detection_that_jumps_moves_nothing() -> None:
    path = straight(60)
    boxes = [at(*place) for place in path]
    boxes[25] = at(path[25][0] + 0.5 * SIDE, path[25][1])
    boxes[40] = at(*path[40], side=1.5 * SIDE)
    track = track_face(moving(path), Scripted(lambda i: [boxes[i]]))
    assert track.found.all()
    assert np.abs(centres(track) - path).max() < 1.0
    np.testing.assert_allclose(track.boxes[:, 2] - track.boxes[:, 0], SIDE, rtol=0.03)


def test_a_jump_that_is_confirmed_is_believed() -> None:
    track = track_face(moving([(140, 120)] * 60), Scripted(lambda i: [at(140 if i < 30 else 175, 120)]))
    np.testing.assert_allclose(centres(track)[50:], [[175, 120]] * 10, atol=1)
    np.testing.assert_allclose(centres(track)[:20], [[140, 120]] * 20, atol=1)


def test_another_face_is_not_taken_for_the_one_that_left() -> None:
    def script(i: int) -> list[np.ndarray]:
        return [at(90, 120), at(190, 120, 60)] if i < 20 else [at(190, 120, 60)]

    track = track_face(still(60), Scripted(script))
    middle = centres(track)[:, 0]
    assert np.abs(middle[:20] - 90).max() < 0.1
    assert not track.found[20:27].any()
    assert np.abs(middle[30:] - 190).max() < 0.1
    assert set(np.round(middle[track.found])) == {90, 190}


def crossing(i: int) -> list[np.ndarray]:
    """A large face left of a small one, and after frame 20 a third at the far right."""
    return [at(80, 120, 90), at(190, 100, 60)] + ([at(300, 130, 70)] if i >= 20 else [])


@pytest.mark.parametrize(
    ("options", "centre"),
    [
        ({}, 80),
        ({"select": "right"}, 190),
        ({"select": "left"}, 80),
        ({"select": "center"}, 190),
        ({"select": "210,100"}, 190),
    ],
)
def test_who_is_followed(options: dict, centre: float) -> None:
    track = track_face(still(40), Scripted(crossing), **options)
    np.testing.assert_allclose(centres(track)[:, 0], centre, atol=0.1)


def test_coordinates_are_those_of_the_frames_not_of_the_reduced_ones() -> None:
    frames = [np.full((480, 1280, 3), 90, np.uint8) for _ in range(12)]
    track = track_face(frames, Scripted(lambda i: [at(200, 120)]), select="400,240")
    np.testing.assert_allclose(track.boxes, [at(400, 240, 160)] * 12, atol=0.01)
    np.testing.assert_allclose(track.points[0], estimate_points(at(400, 240, 160)) + 0.5, atol=0.01)


@pytest.mark.parametrize("first", [7, 10, 13, 23])
def test_nothing_crosses_a_cut_wherever_it_falls(first: int) -> None:
    frames = numbered([scene("coffee")] * first + [scene("astronaut")] * (25 - first))
    detector = Scripted(lambda i: [at(100, 100) if i < first else at(130, 110)])
    track = track_face(frames, detector)
    assert track.shot.tolist() == [0] * first + [1] * (25 - first)
    assert first in detector.asked
    np.testing.assert_allclose(centres(track)[:first], [[100, 100]] * first, atol=0.1)
    np.testing.assert_allclose(centres(track)[first:], [[130, 110]] * (25 - first), atol=0.1)


def test_the_choice_is_made_anew_after_a_cut() -> None:
    frames = numbered([scene("coffee")] * 12 + [scene("astronaut")] * 12)
    track = track_face(frames, Scripted(lambda i: [at(90, 120, 60 + 2 * i), at(250, 120, 80)]), smooth=0)
    np.testing.assert_allclose(centres(track)[:12, 0], 250, atol=0.1)
    np.testing.assert_allclose(centres(track)[12:, 0], 90, atol=0.1)


def shots(frames: Iterable[np.ndarray]) -> int:
    return int(track_face(numbered(frames), Scripted(lambda i: [])).shot[-1]) + 1


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_no_cut(length: int) -> None:
    white = np.full((SIZE[1], SIZE[0], 3), 250, np.uint8)
    assert shots([scene("coffee")] * 10 + [white] * length + [scene("coffee")] * 10) == 1


def test_a_fast_pan_a_fade_and_repeated_frames_are_no_cuts() -> None:
    wide = cv2.resize(scene("astronaut"), (1200, 240))
    assert shots(wide[:, x : x + 360] for x in range(0, 840, 30)) == 1
    assert shots(np.uint8(scene("coffee") * level) for level in np.linspace(0.1, 1, 25)) == 1
    assert shots(wide[:, x // 3 * 24 : x // 3 * 24 + 360] for x in range(60)) == 1


def test_faces_come_in_order_and_never_later_than_promised() -> None:
    path = straight(90, 1.5)
    tracker = MultiFaceTracker(Scripted(lambda i: [] if 30 <= i < 41 or i > 70 else [at(*path[i])]))
    given, steps = [], []
    for number, frame in enumerate(moving(path)):
        given += tracker.push(frame)
        steps.append(len(tracker._slots[0]._path))
        assert len(given) >= number + 1 - tracker.max_lag
    given += tracker.finish()
    assert [face.index for (face,) in given] == list(range(90))
    assert tracker.max_lag <= 30
    assert max(steps) <= 60


def test_a_video_shorter_than_the_delay_and_one_of_no_frames() -> None:
    for count in (1, 2, 3):
        track = track_face(blank(count), Scripted(lambda i: [at(180, 120)]))
        assert track.found.tolist() == [True] * count
        np.testing.assert_allclose(track.boxes, [at(180, 120)] * count, atol=0.01)
    empty = track_face([], Scripted(lambda i: []))
    assert track.size == SIZE
    assert (len(empty), empty.boxes.shape, empty.points.shape) == (0, (0, 4), (0, 5, 2))


def test_nobody_in_the_video() -> None:
    faces = list(stream_face_track(blank(30), Scripted(lambda i: [])))
    assert len(faces) == 30
    assert not any(face.found for face in faces)


@pytest.mark.parametrize(
    "options",
    [{"every": 0}, {"detect_side": 0}, {"max_gap": -1}, {"smooth": -1}, {"fps": 0}, {"select": "me"}],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"tracking needs|select must be one of"):
        MultiFaceTracker(Scripted(lambda i: []), **options)


def test_frames_of_another_size_are_refused() -> None:
    tracker = MultiFaceTracker(Scripted(lambda i: []))
    tracker.push(np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(ValueError, match="same size"):
        tracker.push(np.zeros((50, 40, 3), np.uint8))


def test_on_a_real_clip_five_times_fewer_looks_give_nearly_the_same_points(shared: Path) -> None:
    video = cv2.VideoCapture(str(shared / "data" / "val" / "grid_f_a__brbk7n.mp4"))
    frames = [video.read()[1] for _ in range(30)]
    detector = load_detector("yunet", yunet=shared / "weights" / "face_detection_yunet_2026may.onnx")
    full, fifth = (track_face(frames, detector, every=every) for every in (1, 5))
    assert full.found.all()
    assert fifth.found.all()
    eyes = np.linalg.norm(full.points[:, 0] - full.points[:, 1], axis=1)
    apart = np.linalg.norm(full.points - fifth.points, axis=2).mean(axis=1) / eyes
    assert apart.mean() < 0.01
    assert apart.max() < 0.03
