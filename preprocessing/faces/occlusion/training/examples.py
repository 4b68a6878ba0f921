"""Training examples of the occlusion network: faces of labeled videos with occluders pasted over them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.faces.landmarks.training.augmentation import LandmarkAugmentation, degrade
from preprocessing.faces.landmarks.training.crops import Crops
from preprocessing.faces.landmarks.views import warp
from preprocessing.faces.mesh import HeadPose
from preprocessing.faces.occlusion.mask import CELLS, SIZE, occlusion_view
from preprocessing.faces.occlusion.training.occluders import OccluderMaker


@dataclass(frozen=True)
class OcclusionAugmentation:
    """Augmentation strength.

    Attributes:
        free: Fraction of examples without an occluder.
        dark: Fraction of faces darkened before anything is pasted: few people of the data have dark skin, and a neck
            in the shade must not look like a hand.
        turn, zoom, shift: Standard deviations of the view: radians, log scale, fraction of the side.
        softness: Largest blur of an occluder's border in pixels.
    """

    free: float = 0.5
    dark: float = 0.35
    turn: float = 0.08
    zoom: float = 0.08
    shift: float = 0.02
    softness: float = 1.2


class OcclusionExamples:
    """Draws training examples; deterministic given the random generator."""

    def __init__(self, crops: Crops, augmentation: OcclusionAugmentation) -> None:
        self.crops, self.augmentation = crops, augmentation
        self.occluders = OccluderMaker(crops, SIZE)
        self.views = [occlusion_view(HeadPose.of(points)) for points in crops.points]

    def draw(self, row: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(SIZE, SIZE, 3) uint8 crop of face `row`, and (CELLS, CELLS) float32, the covered fraction of each cell."""
        given = self.augmentation
        turn, zoom = rng.normal(0, given.turn), float(np.exp(rng.normal(0, given.zoom)))
        view = self.views[row].moved(rng.normal(0, given.shift, 2), zoom, turn)
        image = warp(self.crops.images[row], view.matrix(SIZE), SIZE)
        if rng.random() < 0.5:
            image = image[:, ::-1].copy()
        if rng.random() < given.dark:
            image = darker(image, rng)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        if rng.random() >= given.free:
            for _ in range(1 + int(rng.random() < 0.15)):
                occluder = self.occluders.draw(row, rng)
                image = occluder.paste(image, rng.uniform(0.3, given.softness))
                mask = np.maximum(mask, occluder.mask)
        cells = cv2.resize(mask, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        return degrade(image, LandmarkAugmentation(), rng), cells


def darker(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An (S, S, 3) uint8 BGR image in less light, a little warmer, with a shadow that deepens to one side."""
    size, angle = len(image), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / size - 0.5
    ramp = 1 - rng.uniform(0, 0.8) * (np.cos(angle) * x + np.sin(angle) * y + 0.5).clip(0, 1)
    light = rng.uniform(0.35, 0.95) * np.array([0.85, 0.95, 1.0]) ** rng.uniform(0, 2)
    return (image * ramp[..., None] * light).astype(np.uint8)
