"""Made-up occluders: hands, microphones, subtitles, strands of hair, and anything else, as masks with a texture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.faces.landmarks.training.crops import SIDE, SIZE, Crops
from preprocessing.faces.landmarks.views import View

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,!?"


@dataclass(frozen=True)
class Occluder:
    """Something to paste over a crop.

    Attributes:
        mask: (S, S) uint8, 255 where it covers.
        texture: (S, S, 3) uint8 BGR.
        shadow: how much it darkens the face around it, 0 to 1.
    """

    mask: np.ndarray
    texture: np.ndarray
    shadow: float = 0.0

    def paste(self, image: np.ndarray, softness: float) -> np.ndarray:
        """The image with the occluder in front; `softness` is the blur of its border in pixels."""
        result = image.astype(np.float32)
        if self.shadow:
            reach = len(image) / 20
            result *= 1 - self.shadow * cv2.GaussianBlur(self.mask, (0, 0), reach)[..., None].astype(np.float32) / 255
        soft = cv2.GaussianBlur(self.mask, (0, 0), softness)[..., None].astype(np.float32) / 255
        return (result + soft * (self.texture - result)).astype(np.uint8)


class OccluderMaker:
    """Draws occluders for crops of `size` pixels; deterministic given the random generator."""

    def __init__(self, crops: Crops, size: int) -> None:
        self.crops, self.size = crops, size
        self._kinds: list[Callable[[int, np.random.Generator], Occluder]] = [
            self.thing, self.hand, self.microphone, self.subtitle, self.strands, self.board
        ]  # fmt: skip

    def draw(self, row: int, rng: np.random.Generator) -> Occluder:
        """An occluder for face `row`, of any kind."""
        kind = self._kinds[int(rng.choice(len(self._kinds), p=(0.2, 0.3, 0.2, 0.12, 0.06, 0.12)))]
        return kind(row, rng)

    def thing(self, row: int, rng: np.random.Generator) -> Occluder:
        """One to three ellipses or polygons of any texture."""
        mask = self._blank()
        for _ in range(int(rng.integers(1, 4))):
            self._polygon(mask, self._spot(rng), self.size * rng.uniform(0.05, 0.25), rng)
        return Occluder(mask, self.texture(row, rng), rng.uniform(0, 0.4))

    def board(self, row: int, rng: np.random.Generator) -> Occluder:
        """Something large that comes in from a side: a phone, a cup, a sheet, a shoulder."""
        mask, size = self._blank(), self.size
        side, depth = int(rng.integers(4)), size * rng.uniform(0.1, 0.55)
        center, tilt = rng.uniform(0.2, 0.8) * size, rng.uniform(-35, 35)
        box = ((center, depth / 2 - size / 2), (size * rng.uniform(0.25, 1.2), depth + size), float(tilt))
        cv2.fillPoly(mask, [np.round(cv2.boxPoints(box)).astype(np.int32)], 255)
        return Occluder(np.ascontiguousarray(np.rot90(mask, side)), self.texture(row, rng), rng.uniform(0, 0.4))

    def hand(self, row: int, rng: np.random.Generator) -> Occluder:
        """Fingers and a palm in the tone of the face's own skin or another's."""
        mask, light = self._blank(), np.ones((self.size, self.size), np.float32)
        width, angle = self.size * rng.uniform(0.05, 0.1), rng.uniform(0, 2 * np.pi)
        tip, along = self._spot(rng), np.array([np.cos(angle), np.sin(angle)])
        across, length = np.array([-along[1], along[0]]), self.size * rng.uniform(0.2, 0.5)
        fingers = int(rng.integers(1, 5))
        for k in range(fingers):
            start = tip + across * (k - fingers / 2) * width * rng.uniform(1.8, 2.3) + along * rng.normal(0, width)
            end = start + along * length + across * rng.normal(0, width)
            self._finger(mask, light, start, end, width * rng.uniform(0.8, 1.1))
        if rng.random() < 0.7:
            palm = self._blank()
            center, radii = tip + along * (length + width), (width * fingers * rng.uniform(0.9, 1.4), 3 * width)
            cv2.ellipse(palm, (_pair(center), (2 * radii[1], 2 * radii[0]), float(np.degrees(angle))), 255, -1)
            mask = np.maximum(mask, palm)
        skin = self.skin(row if rng.random() < 0.6 else int(rng.integers(len(self.crops.images))), rng)
        return Occluder(mask, (skin * light[..., None]).clip(0, 255).astype(np.uint8), rng.uniform(0.1, 0.6))

    def microphone(self, row: int, rng: np.random.Generator) -> Occluder:
        """A round or long head with a grid, and a handle that leaves the crop."""
        mask, size = self._blank(), self.size
        head, radius = self._spot(rng), size * rng.uniform(0.07, 0.18)
        away = head + np.array([rng.normal(0, 0.5), rng.uniform(0.4, 1.2)]) * size
        tone, grid = rng.uniform(10, 200, 3) * rng.choice([0.3, 1.0]), rng.normal(0, rng.uniform(3, 40), (size, size))
        period = rng.uniform(1.5, 4)
        y, x = np.mgrid[:size, :size]
        grid += rng.uniform(0, 30) * np.sin(x * np.pi / period) * np.sin(y * np.pi / period)
        shade = 1.3 - 0.6 * np.hypot(x - head[0] + radius / 3, y - head[1] + radius / 3) / (1.5 * radius)
        texture = (tone + cv2.GaussianBlur(grid, (0, 0), 0.6)[..., None]) * shade.clip(0.4, 1.6)[..., None]
        stick = self._blank()
        cv2.line(stick, _point(head), _point(away), 255, max(1, round(radius * rng.uniform(0.5, 1.2))))
        texture[stick > 0] = rng.uniform(0, 120, 3)
        cv2.ellipse(mask, (_pair(head), (2 * radius, 2 * radius * rng.uniform(0.8, 1.6)), rng.uniform(0, 180)), 255, -1)
        texture[mask > 0] = ((tone + grid[..., None]) * shade.clip(0.4, 1.6)[..., None])[mask > 0]
        return Occluder(np.maximum(mask, stick), texture.clip(0, 255).astype(np.uint8), rng.uniform(0, 0.4))

    def subtitle(self, row: int, rng: np.random.Generator) -> Occluder:
        """One or two lines of outlined text, or text on a bar."""
        mask, size = self._blank(), self.size
        texture = np.zeros((size, size, 3), np.uint8)
        color = rng.choice([[255, 255, 255], [0, 255, 255], [230, 230, 230]])
        scale, height = size / 112 * rng.uniform(0.5, 1.3), rng.uniform(0.3, 0.95) * size
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX]))
        if rng.random() < 0.3:
            top = round(height - 22 * scale)
            mask[max(top, 0) : round(height + 8 * scale)] = 255
            texture[:] = rng.uniform(0, 80, 3)
        for line in range(int(rng.integers(1, 3))):
            text = "".join(rng.choice(list(LETTERS), int(rng.integers(5, 24))))
            at = (round(rng.uniform(-0.5, 0.3) * size), round(height + 26 * scale * line))
            for image, value in ((mask, 255), (texture, (0, 0, 0))):
                cv2.putText(image, text, at, font, scale, value, max(2, round(4 * scale)), cv2.LINE_AA)
            cv2.putText(texture, text, at, font, scale, color.tolist(), max(1, round(1.6 * scale)), cv2.LINE_AA)
        return Occluder(mask, texture)

    def strands(self, row: int, rng: np.random.Generator) -> Occluder:
        """Hair: some curves of one dark or light tone."""
        mask, size = self._blank(), self.size
        start, drift = self._spot(rng), rng.normal(0, 0.3 * size, 2)
        for _ in range(int(rng.integers(2, 9))):
            bend = [start + rng.normal(0, 0.08 * size, 2) + drift * t for t in (-2.0, -0.7, 0.0, 0.7, 2.0)]
            points = [np.round(np.array(bend) + rng.normal(0, 0.03 * size, (5, 2))).astype(np.int32)]
            cv2.polylines(mask, points, False, 255, int(rng.integers(1, 4)), cv2.LINE_AA)
        tone = rng.uniform(5, 90) * np.array([0.7, 0.85, 1.0])
        texture = tone + rng.normal(0, 10, (size, size, 1))
        return Occluder(mask, texture.clip(0, 255).astype(np.uint8), rng.uniform(0, 0.3))

    def texture(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """(S, S, 3): a shaded flat color, background, or skin."""
        size, kind = self.size, rng.random()
        if kind < 0.4:
            y, x = np.mgrid[:size, :size] / size - 0.5
            ramp = 1 + rng.normal(0, 0.5) * x + rng.normal(0, 0.5) * y + rng.normal(0, 0.03, (size, size))
            return (rng.uniform(0, 255, 3) * ramp[..., None]).clip(0, 255).astype(np.uint8)
        if kind < 0.8 and len(self.crops.background):
            source = self.crops.background[rng.integers(len(self.crops.background))]
            view = View(np.full(2, len(source) / 2), len(source) * rng.uniform(0.2, 1), rng.uniform(-3, 3))
            return view.crop(source, size)
        return self.skin(int(rng.integers(len(self.crops.images))), rng)

    def skin(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """(S, S, 3) skin of a face's cheek or forehead, in another light."""
        points = self.crops.points[row]
        center, reach = points[:, :2].mean(0), np.ptp(points[:, 0])
        spot = center + np.array([rng.choice([-1, 1]) * 0.22, rng.choice([0.05, -0.55])]) * reach
        view = View(spot, SIZE / SIDE * rng.uniform(10, 24), rng.uniform(-3, 3))
        patch = cv2.resize(view.crop(self.crops.images[row], 12), (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        light = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.03, 3))
        return (patch * light + rng.normal(0, 3, patch.shape)).clip(0, 255).astype(np.uint8)

    def _finger(
        self, mask: np.ndarray, light: np.ndarray, start: np.ndarray, end: np.ndarray, width: float
    ) -> None:  # fmt: skip
        """A capsule, darker at its borders."""
        shape = self._blank()
        cv2.line(shape, _point(start), _point(end), 255, max(2, round(2 * width)))
        inside = cv2.distanceTransform(shape, cv2.DIST_L2, 3) / max(width, 1)
        light[shape > 0] = (0.6 + 0.45 * inside.clip(0, 1))[shape > 0]
        np.maximum(mask, shape, out=mask)

    def _polygon(self, mask: np.ndarray, center: np.ndarray, radius: float, rng: np.random.Generator) -> None:
        corners = int(rng.integers(3, 14))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        reach = radius * rng.uniform(0.6, 1.5, corners)
        ring = center + np.column_stack([np.cos(angles), rng.uniform(0.4, 1.2) * np.sin(angles)]) * reach[:, None]
        cv2.fillPoly(mask, [np.round(ring).astype(np.int32)], 255)

    def _spot(self, rng: np.random.Generator) -> np.ndarray:
        """A place, mostly near the mouth."""
        return self.size * np.array([0.5, 0.55]) + rng.normal(0, 0.2 * self.size, 2)

    def _blank(self) -> np.ndarray:
        return np.zeros((self.size, self.size), np.uint8)


def _point(at: np.ndarray) -> tuple[int, int]:
    return round(float(at[0])), round(float(at[1]))


def _pair(at: np.ndarray) -> tuple[float, float]:
    return float(at[0]), float(at[1])
