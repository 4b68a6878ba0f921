"""Paints mouths of frames with the trained painter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from preprocessing.compiled_networks import Network, load_network
from wav2lip.renderer.mouth_fill import Filled, Opening
from wav2lip.renderer.painter_inputs import (
    CHANNELS,
    HEIGHT,
    INPUTS,
    PLANES,
    WEIGHTS,
    WIDTH,
    from_image,
    mouth_masks,
    paint_region,
    sample_crop,
    to_crop,
)
from wav2lip.renderer.target import smoothstep
from wav2lip.renderer.warp import Rectangle

SEAM = 1.0  # crop pixels; softness of the border to a retrieved mouth, which is kept: it is sharper and real
LACKING = (0.1, 0.3)  # fraction of the opening without a retrieved mouth from which the network paints, and fully
LEAST = 0.004  # opacity below which pixels stay as they are
AROUND = 2.5  # units around lips and crop that are looked at
MIN_AREA = 0.35  # of the frontal mouth's area; turned further, the plane of the teeth is seen too much from the side


@dataclass(frozen=True)
class KnownMouth:
    """What is known of a person besides the warped frame.

    Attributes:
        frame: (h, w, 3) uint8, the pixels of the painted region as they were.
        origin: (2,) place of the crop in the mouth plane, units.
        reference: (HEIGHT, WIDTH, 3) uint8, crop of the widest open mouth, see `reference_crop`.
    """

    frame: np.ndarray
    origin: np.ndarray
    reference: np.ndarray


@dataclass(frozen=True)
class NetworkPainter:
    """Lets the network paint what no retrieved mouth covers, after `fill_mouth`.

    Attributes:
        network: (1, CHANNELS, HEIGHT, WIDTH) float32 → softmax weights and paint, see `painter.StackedPainter`.
    """

    network: Network

    @classmethod
    def load(cls) -> NetworkPainter:
        """Loads the bundled network.

        Raises:
            UsageError: the file is missing or damaged.
        """
        code = [Path(__file__).with_name(name) for name in ("painter.py", "painter_inputs.py")]
        return cls(load_network("painter", (WEIGHTS, *code), _painter_module, [(1, CHANNELS, HEIGHT, WIDTH)]))

    def paint(
        self,
        pixels: np.ndarray,
        warped: np.ndarray,
        area: Rectangle,
        opening: Opening,
        outer: np.ndarray,
        known: KnownMouth,
        filled: Filled,
    ) -> None:
        """Paints in place what no retrieved mouth covers.

        Args:
            pixels: (h, w, 3) uint8, the pixels of `area`, filled; modified inside the lips and a narrow rim.
            warped: the same before they were filled.
            area: region of the frame that they cover, see `painted_area`.
            opening: the opening.
            outer: (20, 2) target outer lip ring, frame pixels.
            known: the person.
            filled: how the opening was filled.
        """
        plane = opening.plane.copy()
        plane[:, 2] -= (area.left, area.top)
        sampling = to_crop(plane, known.origin)
        if np.linalg.det(plane[:, :2]) < MIN_AREA * opening.scale**2:
            return
        corner = np.array([area.left, area.top])
        inner, lips = mouth_masks(*(from_image(ring - corner, sampling) for ring in (opening.ring, outer)))
        retrieved = _retrieved(filled, area, sampling)
        lacking = 1 - float((retrieved * inner).sum() / max(inner.sum(), 1e-6))
        share = opening.share * float(smoothstep(np.array(lacking), *LACKING))
        if share <= 0:
            return
        images = {"composite": pixels, "warped": warped, "source": known.frame}
        crops = {name: sample_crop(image, sampling, (WIDTH, HEIGHT)) for name, image in images.items()}
        masks = {"inner": inner, "lips": lips, "retrieved": retrieved}
        painted = self.network(_stacked(crops | {"reference": known.reference}, masks))
        region = paint_region(inner) * (1 - cv2.GaussianBlur(retrieved, (0, 0), SEAM))
        _blend(pixels, warped, (painted[0][0], painted[1][0]), share * region, sampling)


def painted_area(
    plane: np.ndarray, origin: np.ndarray, rings: np.ndarray, scale: float, shape: tuple[int, ...]
) -> Rectangle:
    """The region of a frame that filling and painting a mouth look at, with even corners where the frame's are.

    Args:
        plane: (2, 3) map from the mouth plane to frame pixels.
        origin: (2,) place of the crop in the mouth plane, units.
        rings: (N, 2) points of the lips, frame pixels.
        scale: pixels per unit.
        shape: (H, W, ...) of the frame.
    """
    sampling = to_crop(plane, origin)
    corners = np.array([[x, y, 1.0] for x in (0, WIDTH) for y in (0, HEIGHT)]) @ sampling.T
    return Rectangle.around(np.vstack([corners, rings]), AROUND * scale, shape[1], shape[0]).even(shape[1], shape[0])


def _stacked(crops: dict[str, np.ndarray], masks: dict[str, np.ndarray]) -> np.ndarray:
    """(1, CHANNELS, HEIGHT, WIDTH) float32, the planes of INPUTS, 0 to 1, from uint8 crops and masks."""
    stacked, first = np.empty((1, CHANNELS, HEIGHT, WIDTH), np.float32), 0
    for name in INPUTS:
        last = first + PLANES[name]
        if name in crops:
            np.divide(crops[name].transpose(2, 0, 1), np.float32(255), out=stacked[0, first:last])
        else:
            stacked[0, first] = masks[name]
        first = last
    return stacked


def _painter_module():  # type: ignore[no-untyped-def]  # its types would import torch
    from wav2lip.renderer.painter import painter_module

    return painter_module()


def _retrieved(filled: Filled, area: Rectangle, sampling: np.ndarray) -> np.ndarray:
    """(HEIGHT, WIDTH) float32: where a retrieved mouth is seen."""
    there = sampling.copy()
    there[:, 2] -= (filled.near.left - area.left, filled.near.top - area.top)
    return cv2.warpAffine(filled.retrieved, there, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _blend(
    pixels: np.ndarray,
    warped: np.ndarray,
    painted: tuple[np.ndarray, np.ndarray],
    region: np.ndarray,
    sampling: np.ndarray,
) -> None:
    """Mixes warped frame, composite and paint at the frame's own resolution, in place.

    Args:
        painted: (3, HEIGHT, WIDTH) weights of warped frame, composite and paint, and the paint, 0 to 1.
        region: (HEIGHT, WIDTH) opacity.
    """
    left, top, width, height = cv2.boundingRect((region > LEAST / 2).astype(np.uint8))
    corners = np.array([[x, y, 1.0] for x in (left - 1, left + width) for y in (top - 1, top + height)]) @ sampling.T
    near = Rectangle.around(corners, 1, pixels.shape[1], pixels.shape[0])
    if not width or min(near.size) == 0:
        return
    to_painted = np.asarray(cv2.invertAffineTransform(sampling), np.float64)
    to_painted[:, 2] += to_painted[:, :2] @ np.array([near.left, near.top], np.float64)
    weights, paint = painted
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    own, filled, new, opacity = cv2.split(
        cv2.warpAffine(cv2.merge([*weights, region.astype(np.float32)]), to_painted, near.size, flags=flags)
    )
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC
    color = cv2.warpAffine(
        cv2.merge([*(255 * paint)]), to_painted, near.size, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    view, frame = near.view(pixels), near.view(warped).astype(np.float32)
    # Masks in three channels: over NumPy's short last axis the same takes several times as long.
    own, filled, new, thick = (cv2.merge([mask] * 3) for mask in (own, filled, new, opacity))
    before = view.astype(np.float32)
    mixed = cv2.multiply(own, frame) + cv2.multiply(filled, before) + cv2.multiply(new, color)
    blended = before + cv2.multiply(thick, cv2.subtract(mixed, before))
    cv2.copyTo(np.clip(blended + np.float32(0.5), 0, 255).astype(np.uint8), cv2.inRange(opacity, LEAST, 2.0), view)
