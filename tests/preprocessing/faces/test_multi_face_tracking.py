"""Multi-face tracking on synthetic videos with ground truth and on two real clips side by side."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceTrack
from preprocessing.faces.identity import overlap
from preprocessing.faces.tracking import (
    MultiFaceTracker,
    stream_face_track,
    stream_face_tracks,
    track_face,
    track_faces,
)
from preprocessing.media.video_reader import read_frames
from tests.preprocessing.faces.scripted import (
    SIDE,
    SIZE,
    Scripted,
    at,
    blank,
    centres,
    moving,
    numbered,
    portrait,
    scene,
    still,
)

Places = Sequence[tuple[float, float]]


def runs(track: FaceTrack) -> list[tuple[int, int]]:
    """First and one-past-last frame of each unbroken stretch with a face, within one shot."""
    states = groupby(range(len(track)), key=lambda i: (bool(track.found[i]), int(track.shot[i])))
    stretches = [(state[0], list(frames)) for state, frames in states]
    return [(frames[0], frames[-1] + 1) for found, frames in stretches if found]


def nearest(track: FaceTrack, paths: Sequence[Places]) -> np.ndarray:
    """Index of the nearest path, (N, 2) each, in each frame."""
    return np.argmin([np.linalg.norm(centres(track) - path, axis=1) for path in paths], axis=0)


def heads(*paths: Places) -> list[np.ndarray]:
    """Frames with a head on each path, later ones in front; each in a different color."""
    oval = np.zeros((2 * SIDE, 2 * SIDE, 1), np.float32)
    cv2.ellipse(oval, (SIDE, SIDE), (SIDE // 2, 7 * SIDE // 10), 0, 0, 360, 1.0, -1)
    frames = [frame.astype(np.float32) for frame in blank(len(paths[0]))]
    for tint, path in zip(([1, 1, 1], [0.4, 0.9, 0.6], [0.9, 0.6, 0.4]), paths, strict=False):
        face = portrait()[:, :: 1 if tint[0] == 1 else -1] * np.float32(tint)
        for frame, (x, y) in zip(frames, path, strict=True):
            matrix = np.array([[1, 0, x - SIDE], [0, 1, y - SIDE]], np.float64)
            mask = cv2.warpAffine(oval, matrix, SIZE)[..., None]
            frame[:] = frame * (1 - mask) + cv2.warpAffine(face, matrix, SIZE) * mask
    return numbered(frame.astype(np.uint8) for frame in frames)


def side_by_side(i: int) -> list[np.ndarray]:
    return [at(90, 120, 70), at(190, 120, 90)]


def test_each_person_has_a_slot_and_the_largest_the_first() -> None:
    tracks = track_faces(still(40), Scripted(side_by_side), max_faces=3)
    assert [int(track.found.sum()) for track in tracks] == [40, 40, 0]
    np.testing.assert_allclose(tracks[0].boxes, [at(190, 120, 90)] * 40, atol=0.1)
    np.testing.assert_allclose(tracks[1].boxes, [at(90, 120, 70)] * 40, atol=0.1)
    left, right = track_faces(still(10), Scripted(side_by_side), max_faces=2, select="left")
    assert centres(left)[0, 0] < centres(right)[0, 0]
    assert tracks[0].size == SIZE


@pytest.mark.parametrize("script", [side_by_side, lambda i: [at(180, 120)], lambda i: []])
@pytest.mark.parametrize("make", [still, blank])
def test_free_slots_cost_no_look_and_no_frame_is_looked_at_twice(make, script) -> None:
    asked = []
    for count in (1, 2, 3):
        detector = Scripted(script)
        track_faces(make(41), detector, max_faces=count)
        asked.append(detector.asked)
        assert len(set(detector.asked)) == len(detector.asked)
    assert asked[1] == asked[2] == asked[0]


def test_one_person_is_followed_the_same_with_any_number_of_slots() -> None:
    path = [(100 + 2.3 * i, 110 + 0.4 * i) for i in range(60)]
    noise = np.random.default_rng(0).normal(0, 3, (60, 4))

    def script(i: int) -> list[np.ndarray]:
        return [] if 20 <= i < 25 or i > 50 else [at(*path[i]) + noise[i]]

    alone = track_face(moving(path), Scripted(script))
    assert 0 < alone.found.sum() < 60
    for count in (1, 3):
        first, *others = track_faces(moving(path), Scripted(script), max_faces=count)
        for name in ("boxes", "points", "found", "shot"):
            assert np.array_equal(getattr(first, name), getattr(alone, name), equal_nan=True)
        assert not any(track.found.any() for track in others)


def test_faces_come_frame_by_frame_with_the_slots_in_step() -> None:
    def script(i: int) -> list[np.ndarray]:
        return [at(90, 120, 90)] + ([at(260, 120, 70)] if i < 20 or i > 50 else [])

    crowd, given = MultiFaceTracker(Scripted(script), max_faces=2), []
    for number, frame in enumerate(still(90)):
        given += crowd.push(frame)
        assert len(given) >= number + 1 - crowd.max_lag
    given += crowd.finish()
    assert [[face.index for face in faces] for faces in given] == [[i, i] for i in range(90)]
    together = list(stream_face_tracks(still(90), Scripted(script), max_faces=2))
    for slot, track in enumerate(track_faces(still(90), Scripted(script), max_faces=2)):
        assert track.found.tolist() == [faces[slot].found for faces in together] == [f[slot].found for f in given]
        assert np.array_equal(track.boxes, [faces[slot].box for faces in together], equal_nan=True)
        assert np.array_equal(track.points, [faces[slot].points for faces in together], equal_nan=True)
    alone = stream_face_track(still(9), Scripted(script))
    assert [face.index for face in alone] == list(range(9))


def test_who_leaves_and_comes_back_leaves_the_other_alone() -> None:
    def script(i: int) -> list[np.ndarray]:
        return [at(90, 120, 90)] + ([] if 20 <= i < 50 else [at(260, 120, 70)])

    stays, leaves = track_faces(still(80), Scripted(script), max_faces=2)
    assert stays.found.all()
    assert np.abs(centres(stays) - [90, 120]).max() < 0.1
    assert leaves.found[:20].all()
    assert not leaves.found[20:50].any()
    assert leaves.found[55:].all()
    np.testing.assert_allclose(centres(leaves)[leaves.found], [[260, 120]] * leaves.found.sum(), atol=0.1)


def test_a_third_person_gets_the_slot_of_who_left() -> None:
    def script(i: int) -> list[np.ndarray]:
        return [at(180, 120, 90), at(300, 120, 60)] + ([at(60, 120, 70)] if i < 20 else [])

    stays, changes = track_faces(still(60), Scripted(script), max_faces=2)
    assert stays.found.all()
    (first, left), (_, last) = runs(changes)
    assert (first, left, last) == (0, 20, 60)
    np.testing.assert_allclose(centres(changes)[:20], [[60, 120]] * 20, atol=0.1)
    np.testing.assert_allclose(centres(changes)[40:], [[300, 120]] * 20, atol=0.1)


def test_a_cut_changes_who_is_there() -> None:
    def script(i: int) -> list[np.ndarray]:
        return [at(90, 120, 90), at(260, 120, 70)] if i < 23 else [at(90, 120, 70), at(260, 120, 90)]

    frames = numbered([scene("coffee")] * 23 + [scene("astronaut")] * 23)
    first, second = track_faces(frames, Scripted(script), max_faces=2)
    for track, (before, after) in zip((first, second), ((90, 260), (260, 90)), strict=True):
        assert runs(track) == [(0, 23), (23, 46)]
        assert track.shot.tolist() == [0] * 23 + [1] * 23
        np.testing.assert_allclose(centres(track)[:, 0], [before] * 23 + [after] * 23, atol=0.5)


@pytest.mark.parametrize("front", [0, 1])
@pytest.mark.parametrize("speed", [3.0, 9.0])
@pytest.mark.parametrize("height", [0, 20])
def test_two_who_cross_are_never_mixed(front: int, speed: float, height: float) -> None:
    count = round(240 / speed)
    paths = [
        [(60 + speed * i, 120) for i in range(count)],
        [(300 - speed * i, 120 + height) for i in range(count)],
    ]

    def script(i: int) -> list[np.ndarray]:
        boxes = [at(*path[i]) for path in paths]
        return [boxes[front]] if overlap(*boxes) > 0.4 else boxes

    frames = heads(paths[1 - front], paths[front])
    tracks = track_faces(frames, Scripted(script), max_faces=2)
    apart = np.abs(np.subtract(*np.array(paths)))[:, 0] > SIDE / 4
    for track in tracks:
        who = nearest(track, paths)
        assert all(len(set(who[first:last][apart[first:last]])) == 1 for first, last in runs(track))
        assert track.found[:: count - 1].all()  # both before and after
        assert track.found.mean() > 0.6
    together = np.flatnonzero(tracks[0].found & tracks[1].found)
    assert max(overlap(tracks[0].boxes[i], tracks[1].boxes[i]) for i in together) < 0.35
    for i in (0, count - 1):
        assert sorted(nearest(track, paths)[i] for track in tracks) == [0, 1]


def test_two_cheek_to_cheek_are_followed_throughout() -> None:
    paths = [[(145 + 3 * np.sin(i / 4), 120) for i in range(60)], [(222, 120 + 3 * np.sin(i / 3)) for i in range(60)]]
    tracks = track_faces(heads(*paths), Scripted(lambda i: [at(*path[i]) for path in paths]), max_faces=2)
    assert sorted(nearest(track, paths)[0] for track in tracks) == [0, 1]
    for track in tracks:
        assert track.found.all()
        assert len(set(nearest(track, paths))) == 1


def test_someone_small_who_passes_behind_leaves_the_speaker_alone() -> None:
    speaker, passer = [(180, 120)] * 60, [(40 + 5 * i, 120) for i in range(60)]

    def script(i: int) -> list[np.ndarray]:
        return [at(180, 120, 90)] + ([] if 120 < passer[i][0] < 240 else [at(*passer[i], 40)])

    tracks = track_faces(heads(passer, speaker), Scripted(script), max_faces=2)
    assert runs(tracks[0]) == [(0, 60)]
    assert np.abs(centres(tracks[0]) - [180, 120]).max() < 2
    left, right = runs(tracks[1])
    assert (centres(tracks[1])[slice(*left), 0] < 180).all()
    assert (centres(tracks[1])[slice(*right), 0] > 180).all()


@pytest.mark.parametrize("false", [(60, 60, 40), (300, 120, 110), (225, 160, 70), (180, 140, 40)])
@pytest.mark.parametrize("frames", [[20], [20, 21, 22, 23, 24, 25], [0, 1, 2]])
def test_a_false_detection_of_a_few_frames_leaves_the_face_alone(false, frames: list[int]) -> None:
    def script(i: int) -> list[np.ndarray]:
        return [at(180, 120)] + ([at(*false)] if i in frames else [])

    tracks = track_faces(still(60), Scripted(script), max_faces=2)
    true = [track.found & (np.abs(centres(track) - [180, 120]).max(axis=1) < 1) for track in tracks]
    assert np.logical_or(*true).all()
    assert max(mask.sum() for mask in true) == 60  # in one slot
    assert min((track.found & ~mask).sum() for track, mask in zip(tracks, true, strict=True)) == 0
    assert sum(track.found.sum() for track in tracks) <= 60 + 10


def test_a_second_detection_of_a_face_is_not_followed() -> None:
    tracks = track_faces(still(30), Scripted(lambda i: [at(180, 120), at(195, 130, 60), at(180, 140, 30)]), max_faces=3)
    assert [int(track.found.sum()) for track in tracks] == [30, 0, 0]


def test_a_jump_that_is_doubted_is_not_somebody_else() -> None:
    tracks = track_faces(still(40), Scripted(lambda i: [at(180, 120) if i < 18 else at(239, 120, 52)]), max_faces=2)
    assert [int(track.found.sum()) for track in tracks] == [40, 0]
    np.testing.assert_allclose(centres(tracks[0])[35:], [[239, 120]] * 5, atol=1)


def test_between_one_briefly_seen_and_the_next_person_lies_an_empty_frame() -> None:
    # With no gap allowed, the one is given up by the very look that finds the other.
    def script(i: int) -> list[np.ndarray]:
        return [at(90, 120)] if i == 0 else [at(260, 120)]

    for every in (1, 5):
        (track,) = track_faces(still(30), Scripted(script), max_faces=1, max_gap=0, smooth=0, every=every)
        (first, left), (comes, last) = runs(track)
        assert (first, left, last) == (0, every, 30)
        assert left < comes <= left + 3
        np.testing.assert_allclose(centres(track)[left - 1], [90, 120], atol=0.1)
        np.testing.assert_allclose(centres(track)[comes], [260, 120], atol=0.1)


@pytest.mark.parametrize("seed", range(8))
def test_nobody_is_ever_mixed_up_however_people_come_and_go(seed: int) -> None:
    random = np.random.default_rng(seed)
    lanes = np.array([[60, 60], [180, 60], [300, 60], [60, 180], [180, 180], [300, 180]], float)
    there = np.zeros((150, 6), bool)
    for lane in range(6):
        edges = np.sort(random.choice(150, 2 * random.integers(1, 4), replace=False))
        for first, last in edges.reshape(-1, 2):
            there[first:last, lane] = True
    seen = there & (random.random(there.shape) > 0.1)  # the detector misses some
    sides = random.uniform(40, 70, 6)

    def script(i: int) -> list[np.ndarray]:
        return [at(*(lanes[k] + random.normal(0, 1, 2)), sides[k]) for k in random.permutation(np.flatnonzero(seen[i]))]

    count = int(random.integers(1, 5))
    tracks = track_faces(blank(150), Scripted(script), max_faces=count)
    followed = 0
    for track in tracks:
        who = nearest(track, [[tuple(lane)] * 150 for lane in lanes])
        for first, last in runs(track):
            assert len(set(who[first:last])) == 1
            assert there[first:last, who[first]].mean() > 0.5 or last - first <= 12
            followed += last - first
    owners = [np.where(track.found, nearest(track, [[tuple(lane)] * 150 for lane in lanes]), -1) for track in tracks]
    assert all(len(set(now[now >= 0])) == (now >= 0).sum() for now in np.stack(owners, axis=1))
    assert followed > 0.5 * np.minimum(there.sum(axis=1), count).sum()


def test_no_frames_and_nobody_give_empty_tracks() -> None:
    for track in track_faces([], Scripted(lambda i: []), max_faces=2):
        assert (len(track), track.boxes.shape, track.points.shape, track.size) == (0, (0, 4), (0, 5, 2), None)
    for track in track_faces(blank(3), Scripted(lambda i: []), max_faces=2):
        assert (len(track), track.found.any(), track.shot.tolist()) == (3, False, [0, 0, 0])
        assert np.isnan(track.points).all()


def test_no_faces_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="max_faces >= 1, not 0"):
        MultiFaceTracker(Scripted(lambda i: []), max_faces=0)


def test_overlap_by_hand() -> None:
    ten = np.array([0, 0, 10, 10], np.float32)
    assert overlap(ten, np.array([5, 5, 15, 15])) == pytest.approx(0.25)
    assert overlap(ten, np.array([2, 2, 4, 6])) == overlap(np.array([2, 2, 4, 6]), ten) == 1
    assert overlap(ten, np.array([8, 0, 12, 20])) == pytest.approx(0.25)  # 20 of 80
    assert overlap(ten, np.array([10, 0, 20, 10])) == overlap(ten, np.array([30, 30, 40, 40])) == 0


def test_two_real_people_side_by_side(shared: Path) -> None:
    clips = [shared / "data" / "val" / f"grid_{name}.mp4" for name in ("f_a__brbk7n", "m_b__sbia1a")]
    pair = zip(*(read_frames(clip, fps=Fraction(25), max_side=320, end=1.0) for clip in clips), strict=True)
    frames = [cv2.hconcat(both) for both in pair]
    detector = load_detector("yunet", yunet=shared / "weights" / "face_detection_yunet_2026may.onnx")
    left, right = track_faces(frames, detector, max_faces=2, select="left")
    middle = frames[0].shape[1] / 2
    assert left.found.all()
    assert right.found.all()
    assert left.boxes.max() < middle < right.boxes[:, 0].min()
    alone = track_face([frame[:, : int(middle)].copy() for frame in frames], detector)
    eyes = np.linalg.norm(alone.points[:, 0] - alone.points[:, 1], axis=1).mean()
    assert np.linalg.norm(alone.points - left.points, axis=2).mean() < 0.04 * eyes
