"""What the mouth is made of while the speech is silent."""

import numpy as np

from inference.generation import Cut, Rest

SILENT, LOUD = np.full((1, 80, 16), -4, np.float32), np.zeros((1, 80, 16), np.float32)


def cut(level: int) -> Cut:
    picture = np.full((96, 96, 3), level, np.uint8)
    return Cut(picture, np.eye(2, 3), picture, np.eye(2, 3))


def levels(cuts) -> list[int]:
    return [int(one.pixels[0, 0, 0]) for one in cuts]


def test_speech_uses_each_pictures_own_pixels():
    rest, faces = Rest(40, -4.0), [cut(100), cut(101)]
    assert levels(rest.reference(face, LOUD, 0) for face in faces) == [100, 101]


def test_silence_holds_the_first_picture_until_speech_comes_back():
    rest, faces = Rest(40, -4.0), [cut(100 + k) for k in range(5)]
    sounds = [SILENT, SILENT, LOUD, SILENT, SILENT]
    held = levels(rest.reference(face, mel, 0) for face, mel in zip(faces, sounds, strict=True))
    assert held == [100, 100, 102, 103, 103]


def test_a_moved_head_or_a_cut_takes_another_picture():
    rest, faces = Rest(40, -4.0), [cut(100), cut(105), cut(120), cut(121)]
    held = levels(rest.reference(face, SILENT, shot) for face, shot in zip(faces, (0, 0, 0, 1), strict=True))
    assert held == [100, 100, 120, 121]


def test_without_rest_nothing_is_held():
    rest, faces = Rest(40, -np.inf), [cut(100), cut(101)]
    assert levels(rest.reference(face, SILENT, 0) for face in faces) == [100, 101]
