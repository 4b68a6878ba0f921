"""Synthetic videos and a scripted detector with known ground truth."""

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import skimage.data

from preprocessing.faces.face_track import Detection, FaceTrack

SIZE = (360, 240)  # width, height
SIDE = 80
Script = Callable[[int], Sequence[np.ndarray]]


def at(x: float, y: float, side: float = SIDE) -> np.ndarray:
    """The box of a face centered there."""
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)


class Scripted:
    """A detector that reads the frame number from the first pixel and returns the scripted faces."""

    def __init__(self, script: Script) -> None:
        self.script, self.asked = script, []

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        numbers = [int(frame[0, 0, 0]) for frame in frames]
        self.asked += numbers
        return [[Detection(np.asarray(box, np.float32), 0.9) for box in self.script(number)] for number in numbers]


def numbered(pictures: Iterable[np.ndarray]) -> list[np.ndarray]:
    frames = []
    for number, picture in enumerate(pictures):
        frames.append(picture.copy())
        frames[-1][0, 0] = number
    return frames


def blank(count: int) -> list[np.ndarray]:
    """Frames without texture for optical flow."""
    return numbered(np.full((SIZE[1], SIZE[0], 3), 90, np.uint8) for _ in range(count))


def portrait() -> np.ndarray:
    photo = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    return cv2.resize(photo[40:220, 130:310], (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_AREA)


def moving(path: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """Frames with the astronaut's face centered at each position of the path."""
    face = portrait()
    wall = cv2.resize(skimage.data.brick()[:160, :240], SIZE)
    frames = []
    for x, y in path:
        frame = cv2.cvtColor(wall, cv2.COLOR_GRAY2BGR)
        matrix = np.array([[1, 0, x - SIDE], [0, 1, y - SIDE]], np.float64)
        frames.append(cv2.warpAffine(face, matrix, SIZE, dst=frame, borderMode=cv2.BORDER_TRANSPARENT))
    return numbered(frames)


def still(count: int) -> list[np.ndarray]:
    return moving([(180, 120)] * count)


def centres(track: FaceTrack) -> np.ndarray:
    return (track.boxes[:, :2] + track.boxes[:, 2:]) / 2


def scene(kind: str) -> np.ndarray:
    """Two scenes with different colors."""
    photo = skimage.data.coffee() if kind == "coffee" else skimage.data.astronaut()[:400]
    return cv2.cvtColor(cv2.resize(photo, SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
