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
        turn, zoom, shift: Standard deviations of the view: radians, log scale, fraction of the side.
        softness: Largest blur of an occluder's border in pixels.
    """

    free: float = 0.4
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
        mask = np.zeros((SIZE, SIZE), np.uint8)
        if rng.random() >= given.free:
            for _ in range(1 + int(rng.random() < 0.15)):
                occluder = self.occluders.draw(row, rng)
                image = occluder.paste(image, rng.uniform(0.3, given.softness))
                mask = np.maximum(mask, occluder.mask)
        cells = cv2.resize(mask, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        return degrade(image, LandmarkAugmentation(), rng), cells
