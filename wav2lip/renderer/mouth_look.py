"""How much the eye sees jump where one inner mouth of the bank follows another.

Every mouth is sampled on one head-fixed grid. Upper teeth do not move in it, so two frames of the same teeth look alike
there, and a switch between them is hardly visible. Choosing frames by the visibility of the joins is the idea of Video
Rewrite (Bregler et al., SIGGRAPH 1997) and video textures (Schödl et al., SIGGRAPH 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, canonical_face

HALF_WIDTH, ABOVE, BELOW = 15.0, 5.0, 11.0  # units; extent of the grid around the middle of the canonical lips
PER_UNIT = 1.0  # samples per unit
FEW = 12  # samples; mouths that share fewer cannot be compared
UNKNOWN = 40.0  # levels; difference of mouths that cannot be compared


@cache
def look_grid() -> np.ndarray:
    """(H, W, 2) float32 positions of the samples in the mouth plane, units."""
    middle = canonical_face()[LIPS_INNER, :2].mean(axis=0)
    x = np.arange(-HALF_WIDTH, HALF_WIDTH + 1e-6, 1 / PER_UNIT) + middle[0]
    y = np.arange(-ABOVE, BELOW + 1e-6, 1 / PER_UNIT) + middle[1]
    grid = np.stack(np.meshgrid(x, y), -1).astype(np.float32)
    grid.setflags(write=False)
    return grid


def sample_look(pixels: np.ndarray, plane: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """The brightness of an inner mouth on the grid.

    Args:
        pixels: (h, w, 3) uint8 BGR crop.
        plane: (2, 3) map from the mouth plane to crop pixels.
        ring: (20, 2) inner lip ring in the mouth plane, units.

    Returns:
        (H * W,) float32 levels; nan outside the ring.
    """
    grid = look_grid()
    at = (grid @ plane[:, :2].T + plane[:, 2]).astype(np.float32)
    scale = float(np.sqrt(abs(np.linalg.det(plane[:, :2])))) / PER_UNIT
    gray = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    if scale > 1:
        gray = cv2.GaussianBlur(gray, (0, 0), 0.5 * scale)
    look = cv2.remap(gray, at, np.empty(0), cv2.INTER_LINEAR).astype(np.float32)
    inside = np.zeros(look.shape, np.uint8)
    corners = (ring - grid[0, 0]) * PER_UNIT
    cv2.fillPoly(inside, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
    look[inside == 0] = np.nan
    return look.ravel()


def look_differences(looks: Sequence[np.ndarray]) -> np.ndarray:
    """(K, K) mean difference in levels between K looks where both are known; `UNKNOWN` if that is hardly anywhere."""
    every = np.stack(looks)
    known = np.isfinite(every)
    filled = np.where(known, every, 0)
    both = known.astype(np.float32) @ known.T.astype(np.float32)
    total = np.stack(
        [(np.abs(filled - row) * (known & seen)).sum(axis=1) for row, seen in zip(filled, known, strict=True)]
    )
    found = np.where(both >= FEW, total / np.maximum(both, 1), UNKNOWN)
    np.fill_diagonal(found, 0)
    return found
