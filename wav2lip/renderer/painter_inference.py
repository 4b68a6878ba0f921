"""Paints mouths of frames with the trained painter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from preprocessing.compiled_networks import Network, load_network
from wav2lip.renderer.inner_mouth import InnerMouth
from wav2lip.renderer.mouth_fill import Filled, Opening, fill_mouth
from wav2lip.renderer.painter_inputs import (
    CHANNELS,
    HEIGHT,
    INPUTS,
    WEIGHTS,
    WIDTH,
    from_image,
    mouth_masks,
    paint_region,
    reference_crop,
    sample_crop,
    to_crop,
)
from wav2lip.renderer.target import smoothstep
from wav2lip.renderer.warp import Rectangle

SEAM = 1.0  # crop pixels; softness of the border to a retrieved mouth, which is kept: it is sharper and real
LACKING = (0.1, 0.3)  # fraction of the opening without a retrieved mouth from which the network paints, and fully
MIN_AREA = 0.35  # of the frontal mouth's area; turned further, the plane of the teeth is seen too much from the side


@dataclass(frozen=True)
class KnownMouth:
    """What is known of a person besides the frame to be painted; constant, so that the teeth stay the same.

    Attributes:
        source: (HEIGHT, WIDTH, 3) uint8, the crop of a frame as it is.
        origin: (2,) place of the crop in the mouth plane, units.
        widest: the widest open mouth, or None.
    """

    source: np.ndarray
    origin: np.ndarray
    widest: InnerMouth | None = None

    @classmethod
    def of(cls, frame: np.ndarray, plane: np.ndarray, origin: np.ndarray, widest: InnerMouth | None) -> KnownMouth:
        """Crops an (H, W, 3) uint8 frame whose mouth plane is mapped by `plane`."""
        source = sample_crop(frame, to_crop(plane, origin), (WIDTH, HEIGHT))
        return cls(source, origin, widest)


@dataclass(frozen=True)
class NetworkPainter:
    """Fills an opening like `fill_mouth`, then lets the network paint what no retrieved mouth covers.

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
        area: Rectangle,
        opening: Opening,
        outer: np.ndarray,
        known: KnownMouth,
        mouth: InnerMouth | None,
        dark: np.ndarray | None,
    ) -> bool:
        """Fills the opening in place; returns whether the network painted.

        Args:
            pixels: (h, w, 3) uint8, the warped pixels of `area`; modified inside the lips and a narrow rim.
            area: region of the frame that they cover.
            opening: the opening.
            outer: (20, 2) target outer lip ring, frame pixels.
            known: the person.
            mouth: bank entry to show, if any.
            dark: (3,) BGR color of the cavity, if known.
        """
        warped = pixels.copy()
        filled = fill_mouth(pixels, area, opening, mouth, dark)
        plane = opening.plane.copy()
        plane[:, 2] -= (area.left, area.top)
        sampling = to_crop(plane, known.origin)
        if filled is None or np.linalg.det(plane[:, :2]) < MIN_AREA * opening.scale**2:
            return False
        corner = np.array([area.left, area.top])
        inner, lips = mouth_masks(*(from_image(ring - corner, sampling) for ring in (opening.ring, outer)))
        retrieved = _retrieved(filled, area, sampling)
        lacking = 1 - float((retrieved * inner).sum() / max(inner.sum(), 1e-6))
        share = opening.share * float(smoothstep(np.array(lacking), *LACKING))
        if share <= 0:
            return False
        painted = self._run(pixels, warped, sampling, known, {"inner": inner, "lips": lips, "retrieved": retrieved})
        region = paint_region(inner) * (1 - cv2.GaussianBlur(retrieved, (0, 0), SEAM))
        _blend(pixels, warped, painted, share * region, sampling)
        return True

    def _run(
        self,
        composite: np.ndarray,
        warped: np.ndarray,
        sampling: np.ndarray,
        known: KnownMouth,
        masks: dict[str, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """(HEIGHT, WIDTH, 3) weights of warped frame, composite and paint, and the paint, 0 to 1."""
        crops = {
            name: sample_crop(image, sampling, (WIDTH, HEIGHT))
            for name, image in {"composite": composite, "warped": warped}.items()
        }
        crops |= {"source": known.source, "reference": reference_crop(known.widest, known.origin)}
        planes = {name: image / np.float32(255) for name, image in crops.items()} | masks
        stacked = np.dstack([planes[name] for name in INPUTS]).astype(np.float32).transpose(2, 0, 1)
        weights, paint = self.network(np.ascontiguousarray(stacked)[None])
        return weights[0].transpose(1, 2, 0), paint[0].transpose(1, 2, 0)


def _painter_module():  # type: ignore[no-untyped-def]  # its types would import torch
    from wav2lip.renderer.painter import painter_module

    return painter_module()


def fill_only(
    pixels: np.ndarray,
    area: Rectangle,
    opening: Opening,
    outer: np.ndarray,
    known: KnownMouth,
    mouth: InnerMouth | None,
    dark: np.ndarray | None,
) -> None:
    """Fills the opening in place without a network; see `NetworkPainter.paint`."""
    fill_mouth(pixels, area, opening, mouth, dark)


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
    """Mixes warped frame, composite and paint at the frame's own resolution, in place."""
    corners = np.array([[x, y, 1.0] for x in (0, WIDTH) for y in (0, HEIGHT)]) @ sampling.T
    near = Rectangle.around(corners, 1, pixels.shape[1], pixels.shape[0])
    if min(near.size) == 0:
        return
    to_painted = np.asarray(cv2.invertAffineTransform(sampling), np.float64)
    to_painted[:, 2] += to_painted[:, :2] @ np.array([near.left, near.top], np.float64)
    weights, paint = painted
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    native = cv2.warpAffine(np.dstack([weights, region]).astype(np.float32), to_painted, near.size, flags=flags)
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC
    color = cv2.warpAffine(
        np.ascontiguousarray(255 * paint), to_painted, near.size, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    view, frame = near.view(pixels), near.view(warped).astype(np.float32)
    mixed = native[..., :1] * frame + native[..., 1:2] * view + native[..., 2:3] * color
    blended = view + native[..., 3:] * (mixed - view)
    changed = native[..., 3] > 0.004
    np.copyto(view, np.clip(blended + 0.5, 0, 255).astype(np.uint8), where=changed[..., None])
