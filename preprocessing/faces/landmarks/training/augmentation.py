"""Training examples: face crops with simulated tracker jitter, camera degradation and occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.faces.landmarks.model import mirror_rows
from preprocessing.faces.landmarks.network_config import NetworkConfig, to_normalized
from preprocessing.faces.landmarks.training.crops import SIDE, SIZE, Crops
from preprocessing.faces.landmarks.views import View, face_view, mouth_view, warp
from preprocessing.faces.mesh import LIPS_OUTER, HeadPose

COVERED, FREE = 0.6, 0.25  # occluded fraction of the lips: absent above, present below, ignored in between


@dataclass(frozen=True)
class LandmarkAugmentation:
    """Augmentation strength; standard deviations unless stated otherwise.

    Attributes:
        turn: Rotation in radians.
        zoom: Log scale.
        shift: Fraction of the side.
        rough: Fraction of examples with three times the jitter, as from a detector box.
        gain: Log brightness.
        tint: Log gain of each color channel.
        gamma: Log gamma.
        noise: Maximum standard deviation of the noise in gray levels.
        blur: Fraction of examples blurred, by up to 1.6 pixels.
        coarse: Fraction of examples downscaled, to a third of the resolution at least.
        jpeg: Fraction of examples with JPEG compression, at quality 25 to 95.
        blocks: Fraction of examples with an occluder in front of the face.
        covered: Fraction of examples with an occluder in front of the mouth.
        background: Fraction of examples without a face.
    """

    turn: float = 0.2
    zoom: float = 0.1
    shift: float = 0.03
    rough: float = 0.15
    gain: float = 0.25
    tint: float = 0.08
    gamma: float = 0.2
    noise: float = 12.0
    blur: float = 0.25
    coarse: float = 0.35
    jpeg: float = 0.35
    blocks: float = 0.2
    covered: float = 0.1
    background: float = 0.06


@dataclass(frozen=True)
class LandmarkExample:
    """One training example.

    Attributes:
        image: (S, S, 3) uint8 BGR.
        points: (P, 3) float32, -1 to 1 across the crop.
        presence: 1, 0, or -1 to ignore.
        weight: loss weight of the points: 0 without a face, reduced if the mouth is occluded.
    """

    image: np.ndarray
    points: np.ndarray
    presence: float
    weight: float


class ExampleMaker:
    """Draws training examples for one network; deterministic given the random generator."""

    def __init__(self, crops: Crops, network: NetworkConfig, augmentation: LandmarkAugmentation) -> None:
        self.crops, self.network, self.augmentation = crops, network, augmentation
        self.rows, self.mirror = network.rows(), mirror_rows()
        view = face_view if network.part == "face" else mouth_view
        self.views = [view(HeadPose.of(points)) for points in crops.points]

    def plain(self, row: int) -> LandmarkExample:
        """Crop `row` without augmentation."""
        view, size = self.views[row], self.network.size
        points = view.to_crop(self.crops.points[row], size)
        return self._example(view.crop(self.crops.images[row], size), points, 1.0, 1.0)

    def draw(self, row: int, rng: np.random.Generator) -> LandmarkExample:
        """Crop `row`, randomly augmented."""
        given, size = self.augmentation, self.network.size
        if len(self.crops.background) and rng.random() < given.background:
            return self._without_face(rng)
        view = self._moved(self.views[row], rng)
        matrix, points = view.matrix(size), view.to_crop(self.crops.points[row], size)
        if rng.random() < 0.5:
            matrix = np.array([[-1, 0, size - 1], [0, 1, 0]]) @ np.vstack([matrix, [0, 0, 1]])
            points = (points * [-1, 1, 1] + [size - 1, 0, 0])[self.mirror]
        image = warp(self.crops.images[row], matrix, size)
        hidden = self._cover(image, points, row, rng)
        presence = 1.0 if hidden < FREE else 0.0 if hidden > COVERED else -1.0
        return self._example(degrade(image, given, rng), points, presence, 1.0 if hidden < COVERED else 0.3)

    def _example(self, image: np.ndarray, points: np.ndarray, presence: float, weight: float) -> LandmarkExample:
        shares = to_normalized(points[self.rows], self.network.size).astype(np.float32)
        return LandmarkExample(image, shares, presence, weight)

    def _moved(self, view: View, rng: np.random.Generator) -> View:
        given = self.augmentation
        strength = 3.0 if self.network.part == "face" and rng.random() < given.rough else 1.0
        shift = rng.normal(0, given.shift * strength, 2)
        zoom, turn = np.exp(rng.normal(0, given.zoom * min(strength, 2))), rng.normal(0, given.turn * min(strength, 2))
        return view.moved(shift, float(zoom), float(turn))

    def _without_face(self, rng: np.random.Generator) -> LandmarkExample:
        """A negative example: background, or a view too far from the mouth to show it."""
        size = self.network.size
        if rng.random() < 0.6:
            source = self.crops.background[rng.integers(len(self.crops.background))]
            view = View(np.full(2, len(source) / 2), len(source) * rng.uniform(0.4, 1), rng.uniform(-3, 3))
        else:
            row = rng.integers(len(self.crops.images))
            source, far = self.crops.images[row], rng.choice([-1, 1], 2) * rng.uniform(0.3, 0.5, 2)
            at = self.views[row]
            view = at.moved(far * [1.6, 1.6], rng.uniform(0.3, 0.6)) if self.network.part == "face" else at.moved(
                far * [2.2, 2.6], rng.uniform(0.4, 1.2))  # fmt: skip
        image = degrade(view.crop(source, size), self.augmentation, rng)
        return self._example(image, np.zeros((len(self.mirror), 3)), 0.0, 0.0)

    def _cover(self, image: np.ndarray, points: np.ndarray, row: int, rng: np.random.Generator) -> float:
        """Draws occluders over the face in place; returns the occluded fraction of the lips."""
        given, size = self.augmentation, self.network.size
        mask = np.zeros((size, size), np.uint8)
        lips = points[LIPS_OUTER, :2]
        if rng.random() < given.covered:
            reach = np.ptp(lips, axis=0).max()
            for _ in range(rng.integers(1, 4)):
                _blob(mask, lips.mean(0) + rng.normal(0, 0.15 * reach, 2), reach * rng.uniform(0.35, 0.8, 2), rng)
        if rng.random() < given.blocks:
            _blob(mask, rng.uniform(0, size, 2), size * rng.uniform(0.06, 0.25, 2), rng)
        if not mask.any():
            return 0.0
        soft = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.3, 1.2))[..., None] / 255.0
        image[:] = (image * (1 - soft) + self._texture(row, rng) * soft).astype(np.uint8)
        shape = np.zeros((size, size), np.uint8)
        cv2.fillPoly(shape, [np.round(lips).astype(np.int32)], 255)
        return float((mask[shape > 0] > 0).mean()) if shape.any() else 0.0

    def _texture(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """(S, S, 3) occluder texture: skin of this or another face, background, or a flat color."""
        size, kind = self.network.size, rng.integers(4)
        if kind == 0:
            return np.broadcast_to(rng.uniform(0, 255, 3), (size, size, 3))
        if kind == 1 and len(self.crops.background):
            source = self.crops.background[rng.integers(len(self.crops.background))]
            return View(np.full(2, len(source) / 2), len(source) * rng.uniform(0.2, 1), rng.uniform(-3, 3)).crop(
                source, size
            )
        other = row if kind == 2 else rng.integers(len(self.crops.images))
        skin = self.crops.points[other].mean(0)[:2] + rng.normal(0, 0.12 * SIZE, 2)
        return View(skin, SIZE / SIDE * rng.uniform(15, 60), rng.uniform(-3, 3)).crop(self.crops.images[other], size)


def _blob(mask: np.ndarray, center: np.ndarray, radii: np.ndarray, rng: np.random.Generator) -> None:
    """Draws a random ellipse or rotated rectangle into a mask, in place."""
    at, angle = (float(center[0]), float(center[1])), float(rng.uniform(0, 180))
    if rng.random() < 0.6:
        cv2.ellipse(mask, (at, (float(2 * radii[0]), float(2 * radii[1])), angle), 255, -1)
        return
    corners = cv2.boxPoints((at, (float(2 * radii[0]), float(2 * radii[1])), angle))
    cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 255)


def degrade(image: np.ndarray, given: LandmarkAugmentation, rng: np.random.Generator) -> np.ndarray:
    """Randomizes lighting, resolution, noise and compression of a uint8 image (S, S, 3)."""
    size = image.shape[0]
    if rng.random() < given.coarse:
        small = int(size * rng.uniform(0.33, 0.9))
        image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    if rng.random() < given.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.6))
    image = _relit(image, given, rng)
    if rng.random() < given.jpeg:
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))])[1]
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return image


def _relit(image: np.ndarray, given: LandmarkAugmentation, rng: np.random.Generator) -> np.ndarray:
    """Gain, tint and gamma by one lookup table per channel, then noise."""
    gain = np.exp(rng.normal(0, given.gain) + rng.normal(0, given.tint, 3))
    levels = (np.arange(256) / 255) ** np.exp(rng.normal(0, given.gamma))
    table = np.clip(levels[:, None] * gain * 255 + rng.normal(0, 12), 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table[None])
    if rng.random() < 0.1:
        image = np.repeat(image.mean(-1, keepdims=True).astype(np.uint8), 3, -1)
    if rng.random() < 0.4:
        noise = rng.normal(0, rng.uniform(0, given.noise), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image
