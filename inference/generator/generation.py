"""Generates faces: crops them from frames, runs the generator, and renders at the frame's own resolution."""

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

MAX_SCALE = 8  # render size relative to the network's; larger faces are rendered below their own resolution


@dataclass(frozen=True)
class FaceCrop:
    """A face cropped from a frame.

    Attributes:
        pixels: (S, S, 3) uint8 BGR, the crop at network resolution.
        matrix: (2, 3) from frame to crop coordinates.
        fine: (F, F, 3) uint8 BGR, the same crop at about the frame's own resolution (equal to `pixels` for a
            network that paints).
        fine_matrix: (2, 3) from frame to fine crop coordinates.
    """

    pixels: np.ndarray
    matrix: np.ndarray
    fine: np.ndarray
    fine_matrix: np.ndarray


@dataclass(frozen=True)
class GeneratedFrame:
    """A frame and its generated face before compositing; `crop` and `face` are None if it has no face.

    Attributes:
        number: index in the output.
        frame: (H, W, 3) uint8 BGR, the input frame.
        crop: the face in the input frame.
        face: (F, F, 3) float32 BGR, 0 to 255, generated.
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
        size = self.config.size
        matrix = self.geometry.matrix(face.box, face.points, (frame.shape[1], frame.shape[0]))
        pixels = crop(frame, matrix, size)
        if self.config.output == "paint":
            return FaceCrop(pixels, matrix, pixels, matrix)
        scale = max(1.0, 1 / max(np.sqrt(abs(np.linalg.det(matrix[:, :2]))), 1e-6))
        side = min(int(np.ceil(scale * size / 32)) * 32, MAX_SCALE * size)
        fine_matrix = matrix.copy()
        fine_matrix[:, 2] += 0.5
        fine_matrix *= side / size
        fine_matrix[:, 2] -= 0.5
        return FaceCrop(pixels, matrix, crop(frame, fine_matrix, side), fine_matrix)

    def generate(
        self, crops: Sequence[FaceCrop], references: Sequence[FaceCrop], mels: np.ndarray, batch_size: int
    ) -> list[np.ndarray]:
        """Generates the faces with mouths that match the audio.

        Args:
            references: crop that supplies the pixels of each face, usually its own.
            mels: (B, 1, 80, 16) float32.

        Returns:
            B faces (F, F, 3) float32 BGR, 0 to 255, of the sizes of the fine crops.
        """
        squares = np.stack([item.pixels for item in crops])
        faces = mask_and_stack(squares, np.stack([item.pixels for item in references]), self.config.mask_row)
        outputs = run_batched(self.backend, mels, faces, batch_size).transpose(0, 2, 3, 1)
        if self.config.output == "paint":
            return [np.ascontiguousarray(face) * np.float32(255) for face in outputs]
        fine = [_resized(source.fine, item.fine.shape[0]) for item, source in zip(crops, references, strict=True)]
        return [render_fine(fields, source, self.config) for fields, source in zip(outputs, fine, strict=True)]


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    return image if image.shape[0] == side else cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)


class ReferenceSelector:
    """Chooses the reference crop of each face, so that the original mouth motion does not leak into the generated one.

    The audio drives the generated mouth, but its pixels come from the reference: if the person in the video is talking,
    some of that motion shows through. A generator that warps can use any crop of the same head, so a reference is held
    while the head stays still, and earlier references are reused when the head returns. A generator that paints is
    trained on jittering box crops; each face is its own reference, and one is held only in silence.
    """

    MAX_CHANGE = 8.0  # levels of 255; mean difference above the mask beyond which the reference is replaced
    MAX_CHANGE_IN_SILENCE = 12.0  # higher, because a change of reference is more visible in silence
    REUSE_SHARE = 0.7  # of MAX_CHANGE, within which an earlier reference is reused
    MAX_KEPT = 16  # earlier references

    def __init__(self, mask_row: int, silence: float, hold: bool) -> None:
        """
        Args:
            mask_row: first masked row of the crop.
            silence: mel level up to which a window counts as silent.
            hold: whether references are also held during speech.
        """
        self._row, self._silence, self._hold = mask_row, silence, hold
        self._held: FaceCrop | None = None
        self._kept: deque[FaceCrop] = deque(maxlen=self.MAX_KEPT)
        self._shot = -1

    def reference(self, crop: FaceCrop, mel: np.ndarray, shot: int) -> FaceCrop:
        """The reference of `crop`, whose mel window is `mel` (1, 80, 16)."""
        silent = mel.max() <= self._silence
        if not (silent or self._hold):
            self._held = None
            return crop
        if shot != self._shot:
            self._held, self._shot = None, shot
            self._kept.clear()
        limit = self.MAX_CHANGE_IN_SILENCE if silent else self.MAX_CHANGE
        if self._held is None or self._change(crop, self._held) > limit:
            self._held = self._reuse_or_keep(crop)
        return self._held

    def _reuse_or_keep(self, crop: FaceCrop) -> FaceCrop:
        """An earlier reference with a similar head pose if there is one, else this crop."""
        if self._hold and self._kept:
            nearest = min(self._kept, key=lambda kept: self._change(crop, kept))
            if self._change(crop, nearest) <= self.REUSE_SHARE * self.MAX_CHANGE:
                return nearest
        self._kept.append(crop)
        return crop

    def _change(self, crop: FaceCrop, held: FaceCrop) -> float:
        above = slice(0, self._row)
        return float(cv2.absdiff(crop.pixels[above], held.pixels[above]).mean())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def render_fine(fields: np.ndarray, reference: np.ndarray, config: GeneratorConfig) -> np.ndarray:
    """Applies a warping generator's output at the reference's own resolution, like `wav2lip.generator.model.render`.

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
