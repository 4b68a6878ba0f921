"""Tone mapping: HDR video (PQ and HLG, as phones record it) to the standard range of BT.709."""

from functools import lru_cache

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation

TRANSFERS = {"smpte2084": "PQ", "arib-std-b67": "HLG"}  # ffmpeg's names

REFERENCE_WHITE = 203.0  # cd/m2: white paper in HDR, ITU-R BT.2408
HLG_PEAK = 1000.0  # cd/m2: nominal peak of a HLG display, ITU-R BT.2100
KNEE = 0.6  # of reference white; highlights above it are compressed
GAMMA = 2.4  # of a standard display, ITU-R BT.1886

# Linear BT.2020 to linear BT.709 (ITU-R BT.2087), for B, G, R.
TO_BT709 = np.array([[1.1187, -0.1006, -0.0182], [-0.0083, 1.1329, -0.1246], [-0.0728, -0.5876, 1.6605]], np.float32)
LUMA = np.array([[0.0593, 0.6780, 0.2627]], np.float32)  # of BT.2020, for B, G, R


def tone_mapped(frame: av.VideoFrame, width: int, height: int, transfer: str) -> np.ndarray:
    """Converts a HDR frame to uint8 BGR (height, width, 3) of the standard range.

    Light below KNEE of the reference white keeps its brightness, brighter light approaches white.
    """
    coded = frame.reformat(width, height, "bgr48le", interpolation=Interpolation.BICUBIC).to_ndarray()
    light = _linear(TRANSFERS[transfer])[coded]
    if TRANSFERS[transfer] == "HLG":  # the system gamma of 1.2 acts on luminance, ITU-R BT.2100
        light *= (HLG_PEAK / REFERENCE_WHITE) * np.maximum(cv2.transform(light, LUMA), 1e-6)[..., None] ** 0.2
    light = cv2.transform(light, TO_BT709)
    brightest = np.maximum(light.max(axis=2), 1e-6)
    light *= (_compressed(brightest) / brightest)[..., None]
    return _display()[np.clip(light * 4095 + 0.5, 0, 4095).astype(np.uint16)]


def _compressed(level: np.ndarray) -> np.ndarray:
    """Levels relative to reference white to 0..1: unchanged up to KNEE, then an exponential shoulder."""
    shoulder = 1 - (1 - KNEE) * np.exp(-(level - KNEE) / (1 - KNEE))
    return np.where(level <= KNEE, level, shoulder)


@lru_cache(maxsize=2)
def _linear(curve: str) -> np.ndarray:
    """(65536,) float32: code values to light; PQ relative to reference white, HLG to the scene's peak."""
    code = np.arange(65536) / 65535
    if curve == "PQ":  # SMPTE ST 2084
        power = code ** (32 / 2523)
        nits = 10000 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610)
        return (nits / REFERENCE_WHITE).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073  # ITU-R BT.2100, table 5
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@lru_cache(maxsize=1)
def _display() -> np.ndarray:
    """(4096,) uint8: light, 0..1, to code values of a standard display."""
    return np.rint(255 * (np.arange(4096) / 4095) ** (1 / GAMMA)).astype(np.uint8)
