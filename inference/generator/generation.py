"""Generates faces: crops them from frames and runs the generator on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from inference.generator.backends import Backend, run_batched
from preprocessing.errors import MediaError
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import TrackedFace
from wav2lip.generator.model import GeneratorConfig, mask_and_stack


@dataclass(frozen=True)
class FaceCrop:
    """A face cropped from a frame.

    Attributes:
        pixels: (S, S, 3) uint8 BGR.
        matrix: (2, 3) from frame to crop coordinates.
    """

    pixels: np.ndarray
    matrix: np.ndarray


@dataclass(frozen=True)
class GeneratedFrame:
    """A frame and its generated face before compositing; `crop` and `face` are None if it has no face.

    Attributes:
        number: index in the output.
        frame: (H, W, 3) uint8 BGR, the input frame.
        crop: the face in the input frame.
        face: (S, S, 3) float32 BGR, 0 to 255, generated.
        presence: weight of the generated mouth, 0 to 1.
        shot: index in the source; color matching restarts at each shot.
    """

    number: int
    frame: np.ndarray
    crop: FaceCrop | None = None
    face: np.ndarray | None = None
    presence: float = 0.0
    shot: int = 0


class FaceGenerator:
    """Crops faces and runs the generator on them."""

    def __init__(self, backend: Backend, config: GeneratorConfig, geometry: CropGeometry) -> None:
        self.backend, self.config, self.geometry = backend, config, geometry

    def crop(self, frame: np.ndarray, face: TrackedFace) -> FaceCrop:
        """Crops the square around a face from a (H, W, 3) uint8 BGR frame."""
        matrix = self.geometry.matrix(face.box, face.points, (frame.shape[1], frame.shape[0]))
        return FaceCrop(crop(frame, matrix, self.config.size), matrix)

    def generate(
        self, crops: Sequence[FaceCrop], references: Sequence[FaceCrop], mels: np.ndarray, batch_size: int
    ) -> list[np.ndarray]:
        """Generates the faces with mouths that match the audio.

        Args:
            references: crop that supplies the pixels of each face, usually its own.
            mels: (B, 1, 80, 16) float32.

        Returns:
            B faces (S, S, 3) float32 BGR, 0 to 255.

        Raises:
            MediaError: a pixel is not a number, as of a network whose values exceed the range of its precision.
        """
        squares = np.stack([item.pixels for item in crops])
        faces = mask_and_stack(squares, np.stack([item.pixels for item in references]), self.config.mask_row)
        outputs = run_batched(self.backend, mels, faces, batch_size).transpose(0, 2, 3, 1)
        if not np.isfinite(outputs).all():
            where = f"{self.backend.name}, {self.backend.precision}"
            raise MediaError(f"the generator gave pixels that are not numbers ({where}): its weights cannot be used")
        return [np.ascontiguousarray(face) * np.float32(255) for face in outputs]


class ReferenceSelector:
    """Chooses the reference of each face: the face itself, or in silence one that is held while the head is still.

    In the original each frame is its own reference, whose mouth motion shows through: most of all in silence.
    """

    MAX_CHANGE = 12.0  # levels of 255; mean difference above the mask beyond which the held reference is replaced

    def __init__(self, mask_row: int, silence: float) -> None:
        """
        Args:
            mask_row: first masked row of the crop.
            silence: mel level up to which a window counts as silent.
        """
        self._row, self._silence = mask_row, silence
        self._held: FaceCrop | None = None
        self._shot = -1

    def reference(self, crop: FaceCrop, mel: np.ndarray, shot: int) -> FaceCrop:
        """The reference of `crop`, whose mel window is `mel` (1, 80, 16)."""
        if mel.max() > self._silence:
            self._held = None
            return crop
        if self._held is None or shot != self._shot or self._change(crop, self._held) > self.MAX_CHANGE:
            self._held, self._shot = crop, shot
        return self._held

    def _change(self, crop: FaceCrop, held: FaceCrop) -> float:
        above = slice(0, self._row)
        return float(cv2.absdiff(crop.pixels[above], held.pixels[above]).mean())
