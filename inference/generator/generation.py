"""From a picture with a face to that face with another mouth: crop, network, picture at the face's own resolution."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from inference.generator.backends import Backend, run_batched
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import TrackedFace
from wav2lip.generator.model import GeneratorConfig, flow_ramp, mask_and_stack

FINEST = 8  # times the network's resolution at most; beyond it a face is rendered coarser than it is filmed


@dataclass(frozen=True)
class FaceCrop:
    """A face cut out of a picture.

    Attributes:
        pixels: (S, S, 3) uint8 BGR, the network's square.
        matrix: (2, 3) from picture to square.
        fine: (F, F, 3) uint8, the same square at about the picture's own resolution (the square itself for a
            network that paints).
        fine_matrix: (2, 3) from picture to fine square.
    """

    pixels: np.ndarray
    matrix: np.ndarray
    fine: np.ndarray
    fine_matrix: np.ndarray


@dataclass(frozen=True)
class GeneratedFrame:
    """A frame and the face generated for it, not yet composited; `crop` is None where there is no face.

    Attributes:
        number: of the frame in the result.
        frame: (H, W, 3) uint8 BGR, the source's.
        crop: where the face was taken from.
        face: (F, F, 3) float32 BGR, 0 to 255.
        presence: 0 to 1, how much of the generated mouth is shown.
        shot: of the source; colours are matched anew in each.
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
        """The square around the face of a (H, W, 3) uint8 picture."""
        size = self.config.size
        matrix = self.geometry.matrix(face.box, face.points, (frame.shape[1], frame.shape[0]))
        pixels = crop(frame, matrix, size)
        if self.config.output == "paint":
            return FaceCrop(pixels, matrix, pixels, matrix)
        scale = max(1.0, 1 / max(np.sqrt(abs(np.linalg.det(matrix[:, :2]))), 1e-6))
        side = min(int(np.ceil(scale * size / 32)) * 32, FINEST * size)
        fine_matrix = matrix.copy()
        fine_matrix[:, 2] += 0.5
        fine_matrix *= side / size
        fine_matrix[:, 2] -= 0.5
        return FaceCrop(pixels, matrix, crop(frame, fine_matrix, side), fine_matrix)

    def generate(
        self, cuts: Sequence[FaceCrop], references: Sequence[FaceCrop], mels: np.ndarray, batch_size: int
    ) -> list[np.ndarray]:
        """The cuts with the mouths that belong to the sounds.

        Args:
            references: whose skin and mouth each cut is given, usually its own.
            mels: (B, 1, 80, 16) float32.

        Returns:
            B pictures (F, F, 3) float32 BGR, 0 to 255, of the fine squares' sizes.
        """
        squares = np.stack([cut.pixels for cut in cuts])
        faces = mask_and_stack(squares, np.stack([cut.pixels for cut in references]), self.config.mask_row)
        made = run_batched(self.backend, mels, faces, batch_size).transpose(0, 2, 3, 1)
        if self.config.output == "paint":
            return [np.ascontiguousarray(picture) * np.float32(255) for picture in made]
        fine = [_sized(other.fine, cut.fine.shape[0]) for cut, other in zip(cuts, references, strict=True)]
        return [render_fine(fields, picture, self.config) for fields, picture in zip(made, fine, strict=True)]


def _sized(picture: np.ndarray, side: int) -> np.ndarray:
    return picture if picture.shape[0] == side else cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR)


class ReferenceSelector:
    """Chooses whose pixels each face is made of, so that its own mouth does not move the new one.

    A mouth is told what to say by the sound, but made of the reference's pixels: where the person in the video goes on
    talking, some of that shows through. A generator that warps can take any picture of the same head, so one is held as
    long as the head stays, and the pictures that were held before are taken again when the head comes back. One that
    paints is trained on box crops that jump; it gets each face's own picture, and holds one only in silence.
    """

    MOVED = 8.0  # levels of 255, mean difference of the part above the mask, beyond which another picture is taken
    MOVED_IN_SILENCE = 12.0  # in which every change is seen
    ALIKE = 0.7  # share of MOVED within which an earlier picture will do
    KEPT = 16  # earlier pictures

    def __init__(self, mask_row: int, silence: float, hold: bool) -> None:
        """`silence`: the mel's level up to which nothing is said; `hold`: whether pictures are held in speech, too."""
        self._row, self._silence, self._hold = mask_row, silence, hold
        self._held: FaceCrop | None = None
        self._kept: deque[FaceCrop] = deque(maxlen=self.KEPT)
        self._shot = -1

    def reference(self, cut: FaceCrop, mel: np.ndarray, shot: int) -> FaceCrop:
        """Whose pixels the face of `cut` is made of; `mel` is its window (1, 80, 16)."""
        silent = mel.max() <= self._silence
        if not (silent or self._hold):
            self._held = None
            return cut
        if shot != self._shot:
            self._held, self._shot = None, shot
            self._kept.clear()
        limit = self.MOVED_IN_SILENCE if silent else self.MOVED
        if self._held is None or self._moved(cut, self._held) > limit:
            self._held = self._again(cut)
        return self._held

    def _again(self, cut: FaceCrop) -> FaceCrop:
        """An earlier picture of the head held alike, or else this one."""
        if self._hold and self._kept:
            nearest = min(self._kept, key=lambda kept: self._moved(cut, kept))
            if self._moved(cut, nearest) <= self.ALIKE * self.MOVED:
                return nearest
        self._kept.append(cut)
        return cut

    def _moved(self, cut: FaceCrop, held: FaceCrop) -> float:
        above = slice(0, self._row)
        return float(cv2.absdiff(cut.pixels[above], held.pixels[above]).mean())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def render_fine(fields: np.ndarray, reference: np.ndarray, config: GeneratorConfig) -> np.ndarray:
    """What `wav2lip.generator.model.render` does, at the reference's own resolution: the flow moves full-size pixels.

    Args:
        fields: (S, S, 6) float32, a warping generator's raw output.
        reference: (F, F, 3) uint8 BGR.

    Returns:
        (F, F, 3) float32 BGR, 0 to 255; rows above the mask are the reference's.
    """
    side = reference.shape[0]
    flow = config.max_flow * np.tanh(fields[..., :2]) * flow_ramp(config)[:, None, None] * side
    paint = np.concatenate((255 * _sigmoid(fields[..., 2:5]), _sigmoid(fields[..., 5:])), axis=-1)
    flow = cv2.resize(flow, (side, side), interpolation=cv2.INTER_LINEAR)
    paint = cv2.resize(paint, (side, side), interpolation=cv2.INTER_CUBIC)
    y, x = np.indices((side, side), dtype=np.float32)
    lower = cv2.remap(
        reference.astype(np.float32), x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    lower += np.clip(paint[..., 3:], 0, 1) * (paint[..., :3] - lower)
    top = round(config.mask_row * side / config.size)
    lower[:top] = reference[:top]
    return lower
