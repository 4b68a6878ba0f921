"""What is seen between the lips: a dark, smooth cavity and in it the retrieved teeth and tongue, fixed to the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from wav2lip.renderer.inner_mouth import InnerMouth, gaps, in_plane
from wav2lip.renderer.target import smoothstep
from wav2lip.renderer.warp import Rectangle, remap

DARK = np.array([24.0, 20.0, 46.0])  # BGR of a mouth's depth where none was seen
SOFT_RIM = 0.3  # units; blur of the cavity's edge
COVER = 0.2  # units by which the fill reaches over the lips' edges: a mesh is off by so much
SHADOW = 1.6  # units; reach of the lips' colour into the cavity
TONGUE, TONGUE_LIGHT = 7.0, 0.7  # units above the lower lip over which the cavity darkens; share of the lips' colour
RIM = 0.3  # units inside its own lips from which a retrieved mouth is looked up, so that no lip is seen twice
BEYOND = 1.2  # units beyond its lips over which the outermost of it is drawn out and fades into the dark
MOST_SHIFT = 4.0  # units by which upper teeth may follow the lip where the entry shows too few of them
GAP_EDGE = (-0.9, 0.9)  # units around the split over which an entry's halves fade into the dark
SLIT = (1.0, 2.6)  # units; lower than this the opening is only dark: squeezed teeth would be dots
MIDDLE = slice(2, 7)  # of the nine heights


def coverage(ring: np.ndarray, width: int, height: int, finer: int = 4) -> np.ndarray:
    """(height, width) float32, the share of each pixel inside a (20, 2) polygon: thin slits fade, they do not break."""
    mask = np.zeros((height * finer, width * finer), np.uint8)
    corners = (ring + 0.5) * finer - 0.5
    cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], 255, shift=4)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _widened(ring: np.ndarray, by: float) -> np.ndarray:
    """The ring with its upper points raised and its lower points lowered by so many pixels."""
    wider = ring.copy()
    wider[1:10, 1] += by
    wider[11:20, 1] -= by
    return wider


def cavity(cover: np.ndarray, lips: np.ndarray, dark: np.ndarray, scale: float) -> np.ndarray:
    """(h, w, 3) float32: `dark` in the depth, the lips' shadow towards the rim.

    Args:
        cover: (h, w) inside of the lips.
        lips: (3,) their colour.
        dark: (3,) the depth's colour.
        scale: pixels per unit.
    """
    depth = np.clip(2 * cv2.GaussianBlur(cover, (0, 0), max(SHADOW * scale / 2, 0.5)) - 0.7, 0, 1)[..., None]
    rows = max(3, round(TONGUE * scale))
    above_lip = cv2.boxFilter(cover, -1, (1, rows), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)[..., None]
    dark = dark + (1 - above_lip) ** 1.5 * (TONGUE_LIGHT * lips - dark)  # light falls on what lies behind the lower lip
    shaded = 0.75 * lips + 0.25 * dark
    return (shaded + depth * (dark - shaded)).astype(np.float32)


def _depth_colour(mouth: InnerMouth | None, dark: np.ndarray | None, lips: np.ndarray) -> np.ndarray:
    """The dark of the entry where it shows depth; else a dark red, no lighter than anything seen, nor than the lips."""
    if mouth is not None and np.isfinite(mouth.split):
        return mouth.dark
    lightest = min(DARK.mean(), 0.3 * lips.mean(), np.inf if dark is None else dark.mean())
    red = DARK / DARK.mean() + lips / max(lips.mean(), 1)
    return lightest * red / 2


def fill_share(ring: np.ndarray, seen: np.ndarray) -> float:
    """0 to 1, how far the frame's own pixels between the lips are replaced.

    Lips that are shut in the frame and stay shut keep their own line; (20, 2) rings in units.
    """
    opening = np.maximum(gaps(ring), 0).mean()
    change = abs(np.maximum(gaps(seen), 0).mean() - opening)
    return float(max(smoothstep(opening, 0.5, 1.1), smoothstep(change, 0.15, 0.6)))


def _curve(ring: np.ndarray, at: np.ndarray, upper: bool) -> np.ndarray:
    """Height of a lip above x positions of the plane."""
    side = np.concatenate([ring[:1], ring[:10:-1], ring[10:11]]) if upper else ring[:11]
    return np.interp(at, np.maximum.accumulate(side[:, 0]), side[:, 1]).astype(np.float32)


def _heights(down: np.ndarray, ring: np.ndarray, mouth: InnerMouth) -> tuple[np.ndarray, np.ndarray]:
    """Where in the entry each height is looked up, and whether it is there: two rigid halves, parted where it is dark.

    The upper half moves only if the entry shows too little below the upper lip; the lower half follows the lower lip.
    """
    lacking = (mouth.ring[:10:-1, 1] - ring[:10:-1, 1])[MIDDLE]
    upper = down + float(np.clip(lacking.mean(), 0, MOST_SHIFT))
    if not np.isfinite(mouth.split):
        return upper, np.ones_like(upper)
    lower = down + float((mouth.ring[1:10, 1] - ring[1:10, 1])[MIDDLE].mean())
    above, below = smoothstep(upper - mouth.split, *GAP_EDGE[::-1]), smoothstep(lower - mouth.split, *GAP_EDGE)
    return lower + above * (upper - lower), np.maximum(above, below)  # opened further than the entry: a dark gap


def retrieved(ring: np.ndarray, plane: np.ndarray, area: Rectangle, mouth: InnerMouth) -> tuple[np.ndarray, np.ndarray]:
    """An entry's inner mouth in a frame.

    Upper teeth stay with the head; what lies at the lower lip follows it where the entry is open enough for the two
    to be apart.

    Args:
        ring: (20, 2) target inner ring in the mouth's plane.
        plane: (2, 3) plane → frame.
        area: where in the frame.
        mouth: the entry.

    Returns:
        (h, w, 3) float32 pixels and (h, w) float32, where the entry shows inner mouth.
    """
    x, y = np.meshgrid(np.arange(area.left, area.right), np.arange(area.top, area.bottom))
    across, down = np.moveaxis(in_plane(np.stack([x, y], -1).astype(np.float32), plane), -1, 0)
    there, known = _heights(down, ring, mouth)
    ceiling, floor = _curve(mouth.ring, across, True), _curve(mouth.ring, across, False)
    middle = (ceiling + floor) / 2
    pixels = _sample(mouth, across, np.clip(there, np.minimum(ceiling + RIM, middle), np.maximum(floor - RIM, middle)))
    inside = np.minimum(there - ceiling, floor - there)
    sides = np.minimum(across - mouth.ring[0, 0], mouth.ring[10, 0] - across)
    height = _curve(ring, across, False) - _curve(ring, across, True)
    thick = known * smoothstep(height, *SLIT)
    seen = smoothstep(inside, -BEYOND, 0) * smoothstep(sides, -BEYOND, BEYOND)
    return pixels, (thick * seen).astype(np.float32)


def _sample(mouth: InnerMouth, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    (a, b, c), (d, e, f) = mouth.plane
    places = np.dstack([a * across + b * down + c, d * across + e * down + f])
    return remap(mouth.pixels, places.astype(np.float32)).astype(np.float32)


@dataclass(frozen=True)
class Opening:
    """The opening to fill in a frame.

    Attributes:
        ring: (20, 2) target inner ring, pixels of the frame.
        plane: (2, 3) the mouth's plane in the frame, see `mouth_plane`.
        scale: pixels per unit.
        share: 0 to 1, how far it covers what was there.
    """

    ring: np.ndarray
    plane: np.ndarray
    scale: float
    share: float


MouthPainter: TypeAlias = Callable[[np.ndarray, Rectangle, Opening, InnerMouth | None, np.ndarray | None], None]
"""Fills an opening in place, as `paint_mouth` does; a network may take its place."""


def paint_mouth(
    pixels: np.ndarray, area: Rectangle, opening: Opening, mouth: InnerMouth | None, dark: np.ndarray | None
) -> None:
    """Fill the opening in place.

    Args:
        pixels: (h, w, 3) uint8, the warped pixels of `area`; changed inside the target's inner lips.
        area: where they lie in the frame.
        opening: its shape.
        mouth: what to show; None for the dark cavity alone.
        dark: (3,) colour of the depth if known.
    """
    ring, plane, scale, share = opening.ring, opening.plane, opening.scale, opening.share
    near = Rectangle.around(ring, 1.5 * scale, area.right, area.bottom)
    near = Rectangle(max(near.left, area.left), max(near.top, area.top), near.right, near.bottom)
    width, height = near.size
    if share <= 0 or min(width, height) < 2:
        return
    units = in_plane(ring, plane)
    over = COVER * scale * (0.5 + 0.5 * float(smoothstep(np.maximum(gaps(units), 0).mean(), 0.0, 1.5)))
    cover = coverage(_widened(ring, over) - (near.left, near.top), width, height)
    view = pixels[near.within(area)]
    rim = cv2.dilate(cover, np.ones((2 * max(1, round(1.5 * scale)) + 1,) * 2)) - cover > 0.5
    lips = view[rim].mean(axis=0) if rim.any() else DARK
    fill = cavity(cover, lips, _depth_colour(mouth, dark, lips), scale)
    if mouth is not None:
        shown, alpha = retrieved(units, plane, near, mouth)
        fill += alpha[..., None] * (shown - fill)
    soft = cv2.GaussianBlur(cover, (0, 0), max(SOFT_RIM * scale, 0.4)) * share
    blended = view + soft[..., None] * (fill - view)
    np.copyto(view, np.clip(blended + 0.5, 0, 255).astype(np.uint8), where=(soft > 0.004)[..., None])
