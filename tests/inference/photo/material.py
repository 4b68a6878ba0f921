"""A real face that is large enough to blink."""

from __future__ import annotations

from functools import cache

import numpy as np
from skimage.data import astronaut

from preprocessing.faces.landmarks.predictor import load_landmarks
from preprocessing.faces.mesh import Landmarks

BOX = np.array([110, 45, 220, 190], np.float32)


def portrait() -> np.ndarray:
    """Head and shoulders, (320, 320, 3)."""
    return np.ascontiguousarray(astronaut()[:320, 60:380, ::-1])


@cache
def face() -> np.ndarray:
    """(206, 3) mesh points of the portrait."""
    return load_landmarks()(portrait(), BOX).points


def seen(picture: np.ndarray) -> Landmarks:
    """The landmarks in another version of the portrait."""
    return load_landmarks()(picture, Landmarks(face()))
