"""Finding people: numbers, spans, and who is the same person after a cut."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.faces.face_track import Detection
from preprocessing.faces.people import Person, find_people

LEFT, RIGHT = (20, 40, 80, 120), (180, 40, 240, 120)
RNG = np.random.default_rng(0)
SCENES = [RNG.integers(30, 220, (40, 64, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8) for _ in range(3)]
FACES = {0: (LEFT, RIGHT), 1: (LEFT,), 2: ()}


def film(*scenes: tuple[int, int], without: dict[int, int] | None = None) -> list[np.ndarray]:
    """Frames of (scene, number of frames) in turn; the corner holds the scene, and the face that is `without`."""
    frames = []
    for scene, count in scenes:
        for _ in range(count):
            picture = SCENES[scene].copy()
            picture[:8, :8] = 40 * scene
            hidden = (without or {}).get(len(frames), -1)
            picture[:8, 8:16] = 40 * (hidden + 1)
            frames.append(picture)
    return frames


def detector(frames):
    found = []
    for frame in frames:
        scene, hidden = round(frame[4, 4, 0] / 40), round(frame[4, 12, 0] / 40) - 1
        boxes = [box for index, box in enumerate(FACES[scene]) if index != hidden]
        found.append([Detection(np.array(box, np.float32), 0.9) for box in boxes])
    return found


def spans(people: list[Person]) -> list[list[tuple[int, int]]]:
    return [[(part.first, part.last) for part in person.appearances] for person in people]


def test_numbers_go_from_left_to_right_and_a_cut_back_shows_the_same_people():
    people = find_people(film((0, 40), (1, 30), (0, 30)), detector)
    assert [person.number for person in people] == [1, 2, 3]
    assert spans(people) == [[(0, 40), (70, 100)], [(0, 40), (70, 100)], [(40, 70)]]
    assert np.allclose(people[1].box(80), RIGHT, atol=1)
    assert people[0].frames == 70


def test_the_same_place_after_a_cut_is_someone_else():
    """Scene 1 has a face where scene 0 has one, in front of another background."""
    people = find_people(film((0, 40), (1, 40)), detector)
    assert spans(people) == [[(0, 40)], [(0, 40)], [(40, 80)]]


def test_someone_who_turns_away_for_two_seconds_keeps_the_number():
    away = dict.fromkeys(range(40, 90), 1)
    people = find_people(film((0, 140), without=away), detector)
    assert len(people) == 2
    (first, gone), (back, last) = spans(people)[1]
    assert (first, last) == (0, 140)
    assert 40 <= gone < back <= 95


def test_a_false_detection_is_nobody():
    flicker = dict.fromkeys([n for n in range(100) if not 50 <= n < 55], 1)
    assert len(find_people(film((0, 100), without=flicker), detector)) == 1


def test_tracks_have_a_face_only_where_the_person_is():
    people = find_people(film((2, 20), (1, 30), (2, 10)), detector)
    (person,) = people
    track, faces = person.track(), list(person.faces())
    assert len(track) == len(faces) == 60
    assert track.found.tolist() == [face.found for face in faces] == [20 <= n < 50 for n in range(60)]
    assert np.allclose(track.boxes[20:50], [face.box for face in faces[20:50]])
    assert 20 < person.best_frame() < 50


@pytest.mark.parametrize("count", [1, 3])
def test_a_photo_has_people(count):
    assert len(find_people(film((0, count)), detector)) == 2


def test_an_empty_room():
    assert find_people(film((2, 30)), detector) == []
    assert find_people([], detector) == []
