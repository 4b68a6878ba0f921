"""Draws teeth and tongue that no frame shows: average proportions, in the light of lips and skin.

The upper arch is fixed to the head, the lower one to the lower lip. Widths of the crowns are anatomical means (Ash and
Nelson, Wheeler's Dental Anatomy), foreshortened along the arch; a unit is 1.5 mm for eyes 63 mm apart. Brightness and
colors were chosen so that the brightest, the middle and the darkest tenth of drawn mouths are about those of real ones
(63 training and 17 held-out people); the other constants by looking at held-out people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wav2lip.renderer.target import smoothstep


@dataclass(frozen=True)
class Arch:
    """One row of teeth, from the middle outwards; units.

    Attributes:
        widths: visible widths of the crowns.
        edges: how much shorter each crown is than the first.
        tones: brightness of each crown, left and right, relative to the first: nobody's teeth are quite even.
    """

    widths: tuple[float, ...]
    edges: tuple[float, ...]
    tones: tuple[tuple[float, ...], tuple[float, ...]]


UPPER = Arch(
    (5.6, 4.1, 3.8, 2.7, 2.2), (0.0, 0.45, 0.1, 0.5, 0.9), ((0.99, 0.95, 0.90, 0.86, 0.8), (1, 0.96, 0.89, 0.87, 0.8))
)
LOWER = Arch((3.5, 3.8, 3.7, 2.8), (0.0, 0.1, -0.15, 0.3), ((0.97, 1.0, 0.94, 0.88), (1.0, 0.96, 0.95, 0.87)))
UPPER_EDGE = 1.7  # units below the upper lip's edge at rest to which the upper teeth reach
LOWER_SHOWN = ((4.0, 7.0, 10.0), (-1.0, 0.9, 1.8))  # heights of the opening; units of lower teeth above the lower lip
LOWER_TONE = 0.9  # lower teeth lie deeper
BRIGHTNESS = 1.5  # of teeth, relative to the geometric mean of the lips' and the skin's brightness
TINT = 0.42  # how colored they are, relative to the skin
BRIGHTEST = 245.0  # level
EDGE_SOFT = 0.5  # units over which a tooth's edge fades
GAP = (0.22, 0.09)  # darkening between neighboring teeth at the edge of a row, and where they meet above
GAP_WIDTH = 0.2  # units
GLOSS = 0.08  # brightness of the highlight in the middle of a crown
LIP_SHADOW = (1.4, 0.62)  # units below the upper lip over which its shadow ends, and the brightness under it
SIDE, SIDE_SHADE = 15.0, 0.3  # units from the midline; how much darker teeth are there
SLIT = (0.8, 2.2)  # units; lower openings are only dark: a line of teeth between lips looks gray
CORNER = (0.5, 8.0)  # units from the mouth's corner over which teeth come out of the dark
TONGUE_HIDDEN = 5.0  # units; lower openings show no tongue
TONGUE_RISE = 0.55  # of the rest of the opening's height that the tongue takes up
TONGUE_WIDTH = 0.42  # its half width, relative to the opening's width
TONGUE_SOFT = 1.2  # units over which its edge fades
TONGUE_BRIGHTNESS = 0.62  # relative to a geometric mean of lips and skin


def tooth_color(lips: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(3,) color of teeth in the light that gives lips and skin these (3,) colors; gray beside gray skin."""
    mean = BRIGHTNESS * float(np.sqrt(max(lips.mean(), 1) * max(skin.mean(), 1)))
    color = mean * (1 + TINT * (skin / max(skin.mean(), 1) - 1))
    return np.clip(color * min(1.0, BRIGHTEST / max(color.max(), 1.0)), 0, 255)


def tongue_color(lips: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(3,) color of a tongue in the same light: mostly the lips', some of the skin's, as lips may be painted."""
    return TONGUE_BRIGHTNESS * lips**0.85 * skin**0.15


def _crowns(arch: Arch, across: np.ndarray) -> tuple[np.ndarray, ...]:
    """For distances from the midline: place in the crown, -1 to 1, how much shorter it is, its tone, half its width."""
    ends = np.cumsum(arch.widths)
    crown = np.minimum(np.searchsorted(ends, np.abs(across)), len(ends) - 1)
    widths = np.array(arch.widths)[crown]
    within = 2 * (ends[crown] - np.abs(across)) / widths - 1
    tones = np.where(across < 0, np.array(arch.tones[0])[crown], np.array(arch.tones[1])[crown])
    return np.clip(within, -1, 1), np.array(arch.edges)[crown], tones * (np.abs(across) < ends[-1]), widths / 2


def _row(arch: Arch, across: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and brightness of one row; `depth` is the distance in units from the row's edge into the teeth."""
    within, shorter, tone, half = _crowns(arch, across)
    depth = depth - shorter - 0.5 * np.abs(within) ** 5  # rounded corners
    alpha = smoothstep(depth, -EDGE_SOFT, EDGE_SOFT) * (tone > 0)
    between = np.exp(-(((1 - np.abs(within)) * half / GAP_WIDTH) ** 2))
    gap = GAP[1] + (GAP[0] - GAP[1]) * np.exp(-np.maximum(depth, 0) / 1.2)
    rounding = 1 - 0.16 * within**2
    edge = 0.86 + 0.14 * smoothstep(depth, 0.0, 1.4)  # the thin edge of a crown is translucent
    gloss = 1 + GLOSS * np.exp(-(((within + 0.2) / 0.35) ** 2) - ((depth - 2.4) / 1.3) ** 2)
    return alpha, tone * rounding * edge * gloss * (1 - gap * between)


@dataclass(frozen=True)
class MouthGrid:
    """Points of the mouth plane inside an opening; arrays of one shape, units.

    Attributes:
        across: distances from the midline.
        down: distances below the upper lip's edge at rest.
        ceiling, floor: `down` of the upper and lower lip's edge at these points.
        sides: distances from the nearer corner of the mouth.
        width, height: of the opening, at the widest and highest.
    """

    across: np.ndarray
    down: np.ndarray
    ceiling: np.ndarray
    floor: np.ndarray
    sides: np.ndarray
    width: float
    height: float

    @property
    def lower_edge(self) -> np.ndarray:
        """`down` of the lower teeth's edge: wide mouths show more of them."""
        return self.floor - float(np.interp(self.height, *LOWER_SHOWN))


def draw_tongue(grid: MouthGrid) -> np.ndarray:
    """Alpha of a tongue behind the lower teeth, which fades towards its sides."""
    rise = TONGUE_RISE * max(grid.height - TONGUE_HIDDEN, 0.0)
    side = np.clip(np.abs(grid.across) / max(TONGUE_WIDTH * grid.width, 1e-3), 0, 1)
    top = grid.lower_edge - rise * np.sqrt(1 - side**2)
    shown = smoothstep(grid.down - top, -TONGUE_SOFT, TONGUE_SOFT)
    return shown * (1 - side**2) * smoothstep(np.array(rise), 0.0, 1.0)


def draw_teeth(grid: MouthGrid) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and brightness of the teeth, 1 for a tooth in full light."""
    upper, bright = _row(UPPER, grid.across, UPPER_EDGE - grid.down)
    light = smoothstep(grid.down - grid.ceiling, -0.2, LIP_SHADOW[0])
    bright = bright * (LIP_SHADOW[1] + (1 - LIP_SHADOW[1]) * light)
    lower, dull = _row(LOWER, grid.across, grid.down - grid.lower_edge)
    dull = LOWER_TONE * dull * (0.85 + 0.15 * smoothstep(grid.floor - grid.down, 0.0, 0.8))
    alpha = upper + (1 - upper) * lower
    brightness = (upper * bright + (1 - upper) * lower * dull) / np.maximum(alpha, 1e-6)
    brightness = brightness * (1 - SIDE_SHADE * np.minimum(np.abs(grid.across) / SIDE, 1) ** 2)
    shown = smoothstep(grid.floor - grid.ceiling, *SLIT)
    return alpha * shown * smoothstep(grid.sides, *CORNER), brightness
