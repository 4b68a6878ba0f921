"""What a photo does while it speaks and while it does not: small motions of the head, and blinks."""

from __future__ import annotations

import zlib

import numpy as np

from inference.photo.blink import Blinker
from inference.photo.head_motion import HeadSway, HeadWarp
from preprocessing.faces.eyelids import find_eyelids
from wav2lip.renderer.target import smoothstep

TURN = 4.0  # seconds; there is one blink in each, so that 2 to 6 s lie between two
BEGIN = (0.8, 2.8)  # seconds within these at which it begins
LENGTH = (0.2, 0.3)  # seconds that it takes
CLOSING, SHUT = 0.35, 0.15  # shares of them in which the lids drop, and rest; then they rise


class Blinks:
    """When the eyes are shut, random by a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def closure(self, time: float) -> float:
        """0, open, to 1, shut, at `time` seconds."""
        turn, within = divmod(max(time, 0.0), TURN)
        random = np.random.default_rng((self._seed, int(turn)))
        place = (within - random.uniform(*BEGIN)) / random.uniform(*LENGTH)
        share = min(place / CLOSING, 1.0, (1 - place) / (1 - CLOSING - SHUT))
        return float(smoothstep(np.array(share), 0, 1))


class PhotoMotion:
    """The motion of one person in one photo; the same photo moves in the same way each time."""

    def __init__(self, photo: np.ndarray, points: np.ndarray, kind: str, person: int = 0) -> None:
        """
        Args:
            photo: (H, W, 3) uint8.
            points: (206, 3) mesh points of the face, pixels.
            kind: "head", or "full" for blinks, too, where both lids are clearly seen.
            person: tells the people of one photo apart.
        """
        seed = zlib.crc32(np.ascontiguousarray(photo).data) + person
        size = photo.shape[0], photo.shape[1]
        self._sway, self._warp = HeadSway(seed), HeadWarp(points, size)
        lids = find_eyelids(photo, points) if kind == "full" else None
        self._blinker = None if lids is None else Blinker(lids, size)
        self._blinks = Blinks(seed)

    @property
    def blinking(self) -> bool:
        """Whether the eyes blink."""
        return self._blinker is not None

    def closure(self, time: float) -> float:
        """How far the eyes are shut at `time` seconds, 0 to 1."""
        return 0.0 if self._blinker is None else self._blinks.closure(time)

    def at(self, picture: np.ndarray, time: float) -> np.ndarray:
        """The photo, whose mouth may have been changed, at `time` seconds: a new (H, W, 3) uint8 picture."""
        closure = self.closure(time)
        if self._blinker is not None and closure > 0:
            picture = self._blinker.shut(picture, closure)
        return self._warp.turn(picture, self._sway.angles(time))
