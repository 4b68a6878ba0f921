"""Face tracks: file format, estimated points, selection and re-identification."""

import json

import numpy as np
import pytest

from preprocessing.faces.face_track import Detection, FaceTrack, clip_detections, estimate_points, reduce_frame
from preprocessing.faces.identity import IdentityAssigner, choose, parse_select

FRAME = (400, 200)  # width, height


def box(x: float, y: float, side: float = 40) -> np.ndarray:
    return np.array([x, y, x + side, y + side], np.float32)


def small_track() -> FaceTrack:
    boxes = np.array([[10, 20, 50.25, 80], [np.nan] * 4], np.float32)
    points = np.stack([np.arange(10, dtype=np.float32).reshape(5, 2), np.full((5, 2), np.nan, np.float32)])
    return FaceTrack(boxes, points, np.array([True, False]), np.array([0, 1], np.int32), (640, 360), "30000/1001")


def test_clipping_cuts_to_the_frame_drops_what_is_outside_and_sorts() -> None:
    found = [
        Detection(np.array([-10, -5, 30, 40], np.float32), 0.5),
        Detection(np.array([500, 10, 540, 50], np.float32), 0.9),
        Detection(np.array([380, 180, 420, 220], np.float32), 1.2),
        Detection(np.array([np.nan, 0, 5, 5], np.float32), 0.7),
    ]
    kept = clip_detections(found, np.zeros((200, 400, 3), np.uint8))
    assert [f.box.tolist() for f in kept] == [[380, 180, 400, 200], [0, 0, 30, 40]]
    assert [f.score for f in kept] == [1.0, 0.5]


def test_reducing_keeps_the_shape_and_never_enlarges() -> None:
    assert reduce_frame(np.zeros((1080, 1920, 3), np.uint8), 640).shape == (360, 640, 3)
    assert reduce_frame(np.zeros((1920, 1080, 3), np.uint8), 640).shape == (640, 360, 3)
    small = np.zeros((100, 50, 3), np.uint8)
    assert reduce_frame(small, 640) is small
    assert reduce_frame(np.zeros((2, 5000, 3), np.uint8), 640).shape == (1, 640, 3)


def test_guessed_points_scale_with_the_box_and_are_symmetric() -> None:
    points = estimate_points(np.array([100, 200, 200, 400], np.float32))
    np.testing.assert_allclose(points[0], [126, 275], atol=1e-3)
    np.testing.assert_allclose(points[2], [150, 314.6], atol=1e-3)
    np.testing.assert_allclose(points[:2, 0].sum(), 300, atol=1e-3)
    np.testing.assert_allclose(points[3:, 0].sum(), 300, atol=1e-3)


def test_a_track_comes_back_from_its_file(tmp_path) -> None:
    track = small_track()
    track.save(tmp_path / "track.json")
    again = FaceTrack.load(tmp_path / "track.json")
    np.testing.assert_array_equal(again.boxes, track.boxes)
    np.testing.assert_array_equal(again.points, track.points)
    assert again.found.tolist() == [True, False]
    assert again.shot.tolist() == [0, 1]
    assert (again.size, again.fps, len(again)) == ((640, 360), "30000/1001", 2)
    assert (again.boxes.dtype, again.shot.dtype) == (np.float32, np.int32)
    text = (tmp_path / "track.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["boxes"][1] == [None] * 4
    assert [p.name for p in tmp_path.iterdir()] == ["track.json"]


def test_an_empty_track_comes_back(tmp_path) -> None:
    empty = FaceTrack(
        np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, bool), np.zeros(0, int)
    )
    empty.save(tmp_path / "track.json")
    assert len(FaceTrack.load(tmp_path / "track.json")) == 0


def edited(**changes: object) -> str:
    record = {"schema": "face-track-1", "frames": 1, "size": [64, 48], "fps": "25", "boxes": [[1, 2, 3, 4]]}
    record |= {"points": [[0] * 10], "found": [True], "shot": [0]}
    return json.dumps({key: value for key, value in (record | changes).items() if value != "gone"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\x80\x04K\x01.",
        "[" * 100_000,
        edited(schema="face-track-0"),
        edited(points="gone"),
        edited(frames=2),
        edited(frames=-1),
        edited(frames="1"),
        edited(boxes=[[1, 2, 3]]),
        edited(boxes=[["1", 2, 3, 4]]),
        edited(boxes=[[True, 2, 3, 4]]),
        edited(boxes=[[None, 2, 3, 4]]),
        edited(boxes=[7]),
        edited(boxes=None),
        edited(found=[1]),
        edited(found=[False]),
        edited(shot=[0.5]),
        edited(shot=[1 << 80]),
        edited(size=[1]),
        edited(fps=25),
    ],
)
def test_a_file_that_is_no_track_is_refused_in_one_line(tmp_path, text) -> None:
    path = tmp_path / "track.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="is not a face track") as caught:
        FaceTrack.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_unedited_track_loads_and_an_absent_one_is_named(tmp_path) -> None:
    (tmp_path / "track.json").write_text(edited())
    assert FaceTrack.load(tmp_path / "track.json").boxes.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="no face track at"):
        FaceTrack.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("select", "index"),
    [("largest", 1), ("left", 0), ("right", 2), ("center", 1), ("350,60", 2), ("20,100", 0), ("205,120", 1)],
)
def test_choosing(select: str, index: int) -> None:
    faces = [box(10, 100), box(160, 80, 60), box(330, 20)]
    assert choose(faces, parse_select(select), FRAME) == index


def test_a_point_prefers_the_face_that_holds_it() -> None:
    wide, near = np.array([0, 0, 200, 200], np.float32), box(202, 80, 20)
    assert choose([wide, near], parse_select("195,90"), FRAME) == 0


def test_choosing_among_nobody() -> None:
    assert choose([], "largest", FRAME) == -1


@pytest.mark.parametrize("select", ["biggest", "", "1", "1,2,3", "a,b", "nan,1", "inf,2"])
def test_an_unknown_choice_names_the_legal_ones(select: str) -> None:
    with pytest.raises(ValueError, match="largest, left, right, center"):
        parse_select(select)


def test_the_roster_numbers_from_the_left_and_knows_faces_again() -> None:
    roster = IdentityAssigner(max_gap=12)
    assert roster.update(0, [box(300, 50), box(20, 50)]) == [1, 0]
    assert roster.update(5, [box(25, 52), box(290, 50), box(150, 50)]) == [0, 1, 2]
    assert roster.update(10, [box(155, 50), box(30, 52)]) == [2, 0]
    assert roster.update(17, [box(290, 50)]) == [1]
    assert roster.update(30, [box(290, 50)]) == [3]


def test_the_roster_takes_no_leap_and_no_change_of_size_for_the_same_face() -> None:
    roster = IdentityAssigner(max_gap=12)
    roster.update(0, [box(100, 50)])
    assert roster.update(1, [box(140, 50)]) == [1]
    assert roster.update(2, [box(100, 50, 80)]) == [2]
    assert roster.update(3, [box(118, 50)]) == [0]


def test_of_two_candidates_the_nearer_is_the_same_face() -> None:
    roster = IdentityAssigner(max_gap=12)
    roster.update(0, [box(100, 50), box(125, 50)])
    assert roster.update(1, [box(120, 50), box(104, 50)]) == [1, 0]


def test_the_numbers_go_on_after_a_cut() -> None:
    roster = IdentityAssigner(max_gap=12)
    roster.update(0, [box(100, 50)])
    roster.new_shot()
    assert roster.update(1, [box(100, 50)]) == [1]
