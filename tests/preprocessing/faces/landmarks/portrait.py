"""A real face with known mesh points: NASA's portrait of Eileen Collins, bundled with scikit-image."""

import cv2
import numpy as np
from skimage.data import astronaut

from preprocessing.faces.face_track import Detection
from preprocessing.faces.mesh import POINT

SIZE = (512, 512)
BOX = np.array([180.0, 64.0, 267.0, 180.0])
# Mesh index → point of MediaPipe FaceMesh 0.10.21: eye corners, mouth corners, lip midpoints, chin.
TRUTH = {
    33: (195.2, 100.9), 133: (213.3, 103.7), 362: (237.0, 104.9), 263: (255.8, 104.3), 61: (201.8, 139.2),
    291: (245.0, 141.0), 0: (223.6, 140.5), 13: (223.5, 143.2), 14: (223.0, 150.1), 17: (222.7, 154.6),
    152: (221.3, 177.4),
}  # fmt: skip
ROWS = np.array([POINT[index] for index in TRUTH])
PLACES = np.array(list(TRUTH.values())) - 0.5  # MediaPipe measures from the pixel edge
EYES = 42.0  # pixels between the eye centers


def portrait() -> np.ndarray:
    """512x512 BGR."""
    return np.ascontiguousarray(astronaut()[..., ::-1])


def turned(angle: float, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """The portrait rotated about the face in degrees, scaled and shifted; and the (2, 3) matrix."""
    matrix = cv2.getRotationMatrix2D((222.0, 125.0), -angle, scale)
    matrix[:, 2] += shift
    return cv2.warpAffine(portrait(), matrix, SIZE, borderMode=cv2.BORDER_REPLICATE), matrix


def moved(places: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return places @ matrix[:, :2].T + matrix[:, 2]


class PortraitDetector:
    """Detects the face of a portrait transformed by the first of the given matrices, for full-size frames."""

    def __init__(self, matrices: list[np.ndarray]) -> None:
        self.matrices, self.asked = matrices, 0

    def __call__(self, frames: list[np.ndarray]) -> list[list[Detection]]:
        self.asked += 1
        corners = moved(BOX[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2), self.matrices[0])
        box = np.concatenate([corners.min(0), corners.max(0)]).astype(np.float32)
        return [[Detection(box, 0.9)] for _ in frames]
