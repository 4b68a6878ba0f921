"""Fills the mouth opening: a dark, smooth cavity with a retrieved mouth, or drawn teeth, over a drawn tongue."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wav2lip.renderer.dental_arch import TONGUE_HIDDEN, MouthGrid, draw_teeth, draw_tongue, tongue_color, tooth_color
from wav2lip.renderer.inner_mouth import InnerMouth, gaps, lip_color, to_mouth_plane
from wav2lip.renderer.target import smoothstep
from wav2lip.renderer.warp import Rectangle, remap

DARK = np.array([14.0, 13.0, 48.0])  # default BGR color of the mouth cavity
COLORED = 0.3  # range of the lips' channels, relative to their mean, from which the cavity is fully red
SOFT_RIM = 0.3  # units; blur of the fill's edge
COVER = 0.2  # units by which the fill extends over the lip edges, to cover the mesh error
LIP_LINE = 0.45  # pixels by which the fill extends over a small face's closed lips: pressed teeth would shine through
SMALL = (1.2, 2.2)  # pixels per unit up to which a face is small, and from which it is not
SHADOW = 1.6  # units; extent of the lip color into the cavity
TONGUE = (7.0, 0.7)  # units above the lower lip over which the cavity darkens; fraction of the lip color
TONGUE_UNSEEN = (5.0, 0.5)  # the same for a mouth of which nothing is known
RIM = 0.3  # units; a retrieved mouth is sampled only this far inside its own lips, to avoid doubled lips
BEYOND = 1.2  # units beyond its lips over which its border is extended and fades into the dark
MAX_SHIFT = 4.0  # maximum shift in units of upper teeth towards the lip if the entry shows too little of them
ALIKE = (0.5, 2.0)  # units of height by which two openings differ: below they are alike, above they are not
MAX_WIDENING = 1.25
MAX_STRETCH = 1.4  # of an entry without a gap between its teeth
GAP_EDGE = (-0.9, 0.9)  # units around the split over which the entry's halves fade into the dark
SLIT = (1.0, 2.6)  # units; lower openings are only dark, since squeezed teeth would look like dots
MAX_RELIGHT = 1.3
TEETH_FINER = 2  # drawn teeth are antialiased by this factor
TEETH_DENSITY = 6.0  # pixels per unit at which teeth are drawn at most: their edges are not sharper than that
MIDDLE = slice(2, 7)  # of the nine opening heights


def coverage(ring: np.ndarray, width: int, height: int, finer: int = 4) -> np.ndarray:
    """(height, width) float32 antialiased mask of a (20, 2) polygon: thin slits fade instead of breaking up."""
    mask = np.zeros((height * finer, width * finer), np.uint8)
    corners = (ring + 0.5) * finer - 0.5
    cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], 255, shift=4)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _expanded(ring: np.ndarray, by: float) -> np.ndarray:
    """The ring with its upper points raised and its lower points lowered by `by` pixels."""
    wider = ring.copy()
    wider[1:10, 1] += by
    wider[11:20, 1] -= by
    return wider


def cavity(
    cover: np.ndarray, lips: np.ndarray, dark: np.ndarray, scale: float, tongue: tuple[float, float] = TONGUE
) -> np.ndarray:
    """Renders the mouth cavity as (h, w, 3) float32: `dark` in the middle, shaded lip color towards the rim.

    Args:
        cover: (h, w) mask of the opening.
        lips: (3,) color of the lips.
        dark: (3,) color of the cavity.
        scale: pixels per unit.
        tongue: see `TONGUE`.
    """
    lips, dark = lips.astype(np.float32), dark.astype(np.float32)  # float64 would take twice as long
    depth = np.clip(2 * cv2.GaussianBlur(cover, (0, 0), max(SHADOW * scale / 2, 0.5)) - 0.7, 0, 1)[..., None]
    rows = max(3, round(tongue[0] * scale))
    above_lip = cv2.boxFilter(cover, -1, (1, rows), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)[..., None]
    open_lip = 1 - above_lip
    lit = open_lip * np.sqrt(open_lip)  # the area behind the lower lip
    dark = dark + lit * (np.float32(tongue[1]) * lips - dark)
    shaded = np.float32(0.75) * lips + np.float32(0.25) * dark
    return shaded + depth * (dark - shaded)


def _depth_color(mouth: InnerMouth | None, dark: np.ndarray | None, lips: np.ndarray) -> np.ndarray:
    """The entry's dark color if it has a dark gap, else a dark red, no lighter than the observed dark or the lips.

    Beside gray lips it is gray.
    """
    if mouth is not None and np.isfinite(mouth.split):
        return mouth.dark
    lightest = min(DARK.mean(), 0.3 * lips.mean(), np.inf if dark is None else dark.mean())
    color = min(float(np.ptp(lips)) / (COLORED * max(lips.mean(), 1)), 1)
    red = 1 + color * (DARK / DARK.mean() - 1)
    return lightest * (red + lips / max(lips.mean(), 1)) / 2


def fill_opacity(ring: np.ndarray, seen: np.ndarray) -> float:
    """Opacity, 0 to 1, of the fill over the frame's own pixels between the lips.

    Lips that are closed in the frame and stay closed keep their own lip line; (20, 2) rings in units.
    """
    opening = np.maximum(gaps(ring), 0).mean()
    change = abs(np.maximum(gaps(seen), 0).mean() - opening)
    return float(max(smoothstep(opening, 0.5, 1.1), smoothstep(change, 0.15, 0.6)))


def _curve(ring: np.ndarray, at: np.ndarray, upper: bool) -> np.ndarray:
    """y of a lip edge at x positions in the mouth plane."""
    side = np.concatenate([ring[:1], ring[:10:-1], ring[10:11]]) if upper else ring[:11]
    return np.interp(at, np.maximum.accumulate(side[:, 0]), side[:, 1]).astype(np.float32)


def _heights(down: np.ndarray, ring: np.ndarray, mouth: InnerMouth) -> tuple[np.ndarray, np.ndarray]:
    """Source y in the entry for each target y, and its validity: two rigid halves, separated at the dark gap.

    The upper half stays with the head unless the entry shows too little below the upper lip, or both openings are
    equally high and only displaced; the lower half follows the lower lip.
    """
    lacking = float((mouth.ring[:10:-1, 1] - ring[:10:-1, 1])[MIDDLE].mean())
    below = float((mouth.ring[1:10, 1] - ring[1:10, 1])[MIDDLE].mean())
    alike = 1 - float(smoothstep(np.array(abs(lacking - below)), *ALIKE))
    upper = down + np.clip(max(lacking, alike * lacking), -MAX_SHIFT, MAX_SHIFT)
    if not np.isfinite(mouth.split):
        return _stretched(upper, mouth, below - lacking), np.ones_like(upper)
    lower = down + below
    above, under = smoothstep(upper - mouth.split, *GAP_EDGE[::-1]), smoothstep(lower - mouth.split, *GAP_EDGE)
    return lower + above * (upper - lower), np.maximum(above, under)  # wider open than the entry: a dark gap


def _aligned(across: np.ndarray, ring: np.ndarray, mouth: InnerMouth) -> np.ndarray:
    """Source x in the entry for each target x: its middle under the target's, stretched a little if it is narrower."""
    here, there = (ring[0, 0] + ring[10, 0]) / 2, (mouth.ring[0, 0] + mouth.ring[10, 0]) / 2
    wider = (ring[10, 0] - ring[0, 0]) / max(mouth.ring[10, 0] - mouth.ring[0, 0], 1e-3)
    shift = np.clip(there - here, -MAX_SHIFT, MAX_SHIFT)
    return here + shift + (across - here) / np.clip(wider, 1, MAX_WIDENING)


def _stretched(down: np.ndarray, mouth: InnerMouth, missing: float) -> np.ndarray:
    """Source y, stretched away from the upper lip by up to `MAX_STRETCH` if the opening is higher than the entry's.

    A little stretch is less visible than a dark arc above the lower lip. `missing` is below 0 by the units lacking.
    """
    height = max(float(gaps(mouth.ring)[MIDDLE].mean()), 1e-3)
    stretch = np.clip((height - missing) / height, 1, MAX_STRETCH)
    top = float(mouth.ring[:10:-1, 1][MIDDLE].mean())
    return np.where(down > top, top + (down - top) / stretch, down)


def retrieve_mouth(
    ring: np.ndarray, plane: np.ndarray, area: Rectangle, mouth: InnerMouth
) -> tuple[np.ndarray, np.ndarray]:
    """Warps an entry's inner mouth into a frame.

    Upper teeth stay with the head; the lower part follows the lower lip if the entry is open enough to separate
    the two.

    Args:
        ring: (20, 2) target inner lip ring in the mouth plane.
        plane: (2, 3) map from the mouth plane to frame pixels.
        area: region of the frame.
        mouth: the entry.

    Returns:
        (h, w, 3) float32 pixels and (h, w) float32 alpha mask.
    """
    (a, b, c), (d, e, f) = cv2.invertAffineTransform(plane)
    x, y = np.arange(area.left, area.right), np.arange(area.top, area.bottom)[:, None]
    across, down = (a * x + b * y + c).astype(np.float32), (d * x + e * y + f).astype(np.float32)
    height = _curve(ring, across, False) - _curve(ring, across, True)
    across = _aligned(across, ring, mouth)
    there, known = _heights(down, ring, mouth)
    ceiling, floor = _curve(mouth.ring, across, True), _curve(mouth.ring, across, False)
    middle = (ceiling + floor) / 2
    pixels = _sample(mouth, across, np.clip(there, np.minimum(ceiling + RIM, middle), np.maximum(floor - RIM, middle)))
    inside = np.minimum(there - ceiling, floor - there)
    sides = np.minimum(across - mouth.ring[0, 0], mouth.ring[10, 0] - across)
    thick = known * smoothstep(height, *SLIT)
    seen = smoothstep(inside, -BEYOND, 0) * smoothstep(sides, -BEYOND, BEYOND)
    return pixels, (thick * seen).astype(np.float32)


def _sample(mouth: InnerMouth, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    (a, b, c), (d, e, f) = mouth.plane
    coordinates = np.dstack([a * across + b * down + c, d * across + e * down + f])
    return remap(mouth.pixels, coordinates.astype(np.float32)).astype(np.float32)


def relight(mouth: InnerMouth, lips: np.ndarray) -> np.ndarray:
    """(3,) factors that bring an entry from its own light to that of a frame whose lips have this BGR color."""
    return np.clip((lips + 8) / (mouth.lips + 8), 1 / MAX_RELIGHT, MAX_RELIGHT)


@dataclass(frozen=True)
class Opening:
    """A mouth opening to fill.

    Attributes:
        ring: (20, 2) target inner lip ring, frame pixels.
        plane: (2, 3) map from the mouth plane to frame pixels, see `mouth_plane`.
        scale: pixels per unit.
        share: 0 to 1, opacity of the fill.
        teeth: (2,) the upper lip's edge at rest in the mouth plane (`teeth_place`), from which teeth and tongue are
            drawn; None to draw neither.
        skin: (3,) BGR color of the skin around the lips, for that of the teeth; None: as light as the lips.
    """

    ring: np.ndarray
    plane: np.ndarray
    scale: float
    share: float
    teeth: np.ndarray | None = None
    skin: np.ndarray | None = None


def drawn_mouth(
    fill: np.ndarray, lips: np.ndarray, opening: Opening, ring: np.ndarray, place: np.ndarray, area: Rectangle,
    teeth: bool,
) -> np.ndarray:  # fmt: skip
    """Draws a tongue and, if wanted, average teeth over a cavity, see `dental_arch`.

    Args:
        fill: (h, w, 3) float32, the cavity.
        lips: (3,) color of the lips.
        opening: the opening.
        ring: (20, 2) its inner lip ring in the mouth plane.
        place: (2,) see `teeth_place`.
        area: region of the frame that `fill` covers.
        teeth: draw them; not beside those of a retrieved mouth, where their edge would look like a second row.
    """
    height = float(gaps(ring).max())
    if not teeth and height <= TONGUE_HIDDEN:
        return fill
    finer = min(TEETH_FINER, TEETH_DENSITY / opening.scale)
    counts = [max(1, round(n * finer)) for n in area.size]
    fine = [
        (np.arange(count) + 0.5) * n / count - 0.5 + start
        for count, n, start in zip(counts, area.size, (area.left, area.top), strict=True)
    ]
    across, down = np.moveaxis(to_mouth_plane(np.stack(np.meshgrid(*fine), -1), opening.plane), -1, 0)
    ceiling, floor = (_curve(ring, across, upper) - place[1] for upper in (True, False))
    sides = np.minimum(across - ring[0, 0], ring[10, 0] - across)
    width = float(ring[10, 0] - ring[0, 0])
    grid = MouthGrid(across - place[0], down - place[1], ceiling, floor, sides, width, height)
    alpha, bright = draw_teeth(grid) if teeth else np.zeros((2, *across.shape))
    drawn = np.dstack([alpha * bright, alpha, draw_tongue(grid)]).astype(np.float32)
    layers = cv2.resize(drawn, area.size, interpolation=cv2.INTER_AREA if finer > 1 else cv2.INTER_LINEAR)
    skin = lips if opening.skin is None else opening.skin
    fill = fill + layers[..., 2:] * (tongue_color(lips, skin).astype(np.float32) - fill)
    return fill * (1 - layers[..., 1:2]) + layers[..., :1] * tooth_color(lips, skin).astype(np.float32)


@dataclass(frozen=True)
class Filled:
    """What `fill_mouth` painted: a rectangle of the frame, and where in it a retrieved mouth is seen, 0 to 1."""

    near: Rectangle
    retrieved: np.ndarray


def fill_mouth(
    pixels: np.ndarray, area: Rectangle, opening: Opening, mouth: InnerMouth | None, dark: np.ndarray | None
) -> Filled | None:
    """Fills the opening in place.

    Args:
        pixels: (h, w, 3) uint8, the warped pixels of `area`; modified inside the target's inner lips.
        area: region of the frame that they cover.
        opening: the opening.
        mouth: bank entry to show, over a drawn tongue; None: drawn teeth, too. Neither is drawn without their place.
        dark: (3,) BGR color of the cavity, if known.

    Returns:
        What was filled; None if the mouth is closed or outside the area.
    """
    ring, plane, scale, share = opening.ring, opening.plane, opening.scale, opening.share
    near = Rectangle.around(ring, 1.5 * scale, area.right, area.bottom)
    near = Rectangle(max(near.left, area.left), max(near.top, area.top), near.right, near.bottom)
    width, height = near.size
    if share <= 0 or min(width, height) < 2:
        return None
    units = to_mouth_plane(ring, plane)
    line = LIP_LINE * (1 - float(smoothstep(np.array(scale), *SMALL)))
    cover = opening_cover(ring - (near.left, near.top), units, scale, width, height, line)
    view = pixels[near.within(area)]
    lips = lip_color(view, cover, scale)
    unseen = mouth is None and opening.teeth is not None
    fill = cavity(cover, lips, _depth_color(mouth, dark, lips), scale, TONGUE_UNSEEN if unseen else TONGUE)
    if opening.teeth is not None:
        fill = drawn_mouth(fill, lips, opening, units, opening.teeth, near, unseen)
    alpha = np.zeros(cover.shape, np.float32)
    if mouth is not None:
        shown, alpha = retrieve_mouth(units, plane, near, mouth)
        shown = shown * relight(mouth, lips).astype(np.float32)
        fill += cv2.multiply(cv2.merge([alpha] * 3), cv2.subtract(shown, fill))
    soft = cv2.GaussianBlur(cover, (0, 0), max(SOFT_RIM * scale, 0.4)) * share
    before = view.astype(np.float32)
    blended = before + cv2.multiply(cv2.merge([soft] * 3), cv2.subtract(fill, before))
    changed = np.clip(blended + np.float32(0.5), 0, 255).astype(np.uint8)
    cv2.copyTo(changed, cv2.inRange(soft, 0.004, 2.0), view)
    return Filled(near, alpha * soft)


def opening_cover(
    ring: np.ndarray, units: np.ndarray, scale: float, width: int, height: int, line: float = 0.0
) -> np.ndarray:
    """(height, width) mask of an opening, slightly over the lip edges; (20, 2) ring in pixels and in units.

    `line`: pixels by which it extends over closed lips at least, so that the lip line of a small face is dark, too.
    """
    opening = np.maximum(gaps(units), 0).mean()
    over = COVER * scale * (0.5 + 0.5 * float(smoothstep(opening, 0.0, 1.5)))
    over = max(over, line * (1 - float(smoothstep(opening, 0.3, 1.2))))
    return coverage(_expanded(ring, over), width, height)
