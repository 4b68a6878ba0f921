"""Augmentation: how a window's pictures and its sound are disguised, alike for all of its frames."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np

from preprocessing.errors import UsageError
from preprocessing.media.audio import AudioConfig

Range = tuple[float, float]
LIMITS = {"zoom": (0.1, 10), "gain": (0, 10), "gamma": (0.1, 10), "sigma": (0.1, 9), "quality": (1, 100)}
SHARES = ("flip", "grey", "blur", "jpeg", "tint")
WARPS = ("stretch", "shear", "mel_warp")


@dataclass(frozen=True)
class Augmentation:
    """How far windows are disguised. Everything is drawn once for a window.

    Attributes:
        shift: the farthest the face is moved, right or left and down or up, in pixels of a crop of 96.
        turn: degrees it is turned by at most, either way. zoom: range of its enlargement.
        stretch: log of the largest factor by which its width and its height are scaled further, each on its own.
        shear: the most that a row moves aside, either way, for each row from the middle to it.
        flip, grey, blur, jpeg: shares of windows that are mirrored, colourless, blurred, compressed.
        gain: range of the colours' factors. tint: how far these differ: 0 all alike, 1 each colour its own.
        gamma: range of the brightness' exponent.
        sigma: range of a blur's standard deviation in pixels. quality: range of JPEG's quality, 1 to 100.
        noise: the largest standard deviation of pixel noise, in levels of 255.
        mel_gain, mel_tilt: the most that the level of the mel is changed, either way: as a whole, and of its highest
            band against the middle one. mel_noise: standard deviation of its noise.
        mel_warp: log of the largest factor by which the bands are stretched, as another length of the vocal tract
            would (VTLP, Jaitly & Hinton 2013).
        bands, pauses: (number, widest) of masked mel bands and of masked stretches of mel columns.
        offset: seconds by which the sound is late or early at most.
    """

    shift: float = 2.0
    turn: float = 3.0
    zoom: Range = (0.95, 1.05)
    flip: float = 0.5
    grey: float = 0.1
    gain: Range = (0.85, 1.15)
    tint: float = 0.3
    gamma: Range = (0.85, 1.18)
    blur: float = 0.1
    sigma: Range = (0.4, 1.2)
    jpeg: float = 0.2
    quality: tuple[int, int] = (60, 95)
    noise: float = 2.0
    mel_gain: float = 0.4
    mel_tilt: float = 0.2
    mel_noise: float = 0.05
    bands: tuple[int, int] = (1, 8)
    pauses: tuple[int, int] = (1, 3)
    offset: float = 0.0
    stretch: float = 0.0
    shear: float = 0.0
    mel_warp: float = 0.0

    def __post_init__(self) -> None:
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        for name in WARPS:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is a number from 0 to 1, not {getattr(self, name)}")
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name)[0] <= getattr(self, name)[1] <= high:
                raise UsageError(f"{name} is a range within {low} and {high}, low first, not {getattr(self, name)}")
        for item in fields(self):
            if np.min(getattr(self, item.name)) < 0:
                raise UsageError(f"{item.name} is 0 or more, not {getattr(self, item.name)}")

    @classmethod
    def none(cls) -> Augmentation:
        """Changes nothing."""
        nothing: dict[str, Any] = {item.name: 0.0 for item in fields(cls)}
        ranges = dict.fromkeys(("zoom", "gain", "gamma", "sigma"), (1.0, 1.0))
        return cls(**nothing | ranges | {"quality": (100, 100), "bands": (0, 0), "pauses": (0, 0)})


@dataclass(frozen=True)
class ImageTransform:
    """One disguise of pictures; the default is none. The same pictures always come out alike.

    Attributes:
        shift: pixels right and down. turn: degrees anticlockwise. zoom: enlargement. flip, grey: whether.
        stretch: factors of width and height. shear: pixels to the right for each pixel below the middle.
        gains: factors of blue, green and red. gamma: exponent. blur, noise: standard deviations, 0 none.
        quality: JPEG's, 0 none. seed: of the noise.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    zoom: float = 1.0
    flip: bool = False
    grey: bool = False
    gains: tuple[float, ...] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    quality: int = 0
    seed: int = 0
    stretch: tuple[float, ...] = (1.0, 1.0)
    shear: float = 0.0

    @classmethod
    def draw(cls, augmentation: Augmentation, rng: np.random.Generator, scale: float = 1.0) -> ImageTransform:
        """A view of pictures that show a pixel of a crop of 96 by `scale` pixels.

        Faces are moved by whole pixels, so that those whose size does not change stay sharp.
        """
        reach = round(augmentation.shift * scale)
        flip, grey, blur, jpeg = (rng.random(4) < (augmentation.flip, augmentation.grey, augmentation.blur, augmentation.jpeg)).tolist()
        gains = rng.uniform(*augmentation.gain, size=3)
        gains = augmentation.tint * gains + (1 - augmentation.tint) * gains.mean()
        right, down = rng.integers(-reach, reach + 1, size=2).tolist()
        sigma, quality = rng.uniform(*augmentation.sigma), int(rng.integers(augmentation.quality[0], augmentation.quality[1] + 1))
        return cls(
            (right, down), rng.uniform(-augmentation.turn, augmentation.turn), rng.uniform(*augmentation.zoom), flip, grey,
            tuple(gains.tolist()), rng.uniform(*augmentation.gamma), sigma if blur else 0.0, rng.uniform(0, augmentation.noise),
            quality if jpeg else 0, int(rng.integers(2**32)),
            tuple(np.exp(rng.uniform(-augmentation.stretch, augmentation.stretch, size=2)).tolist()), rng.uniform(-augmentation.shear, augmentation.shear),
        )  # fmt: skip

    def jittered(self, pixels: int, rng: np.random.Generator) -> ImageTransform:
        """The same view moved by up to `pixels` more, with other noise."""
        right, down = rng.integers(-pixels, pixels + 1, size=2).tolist()
        return replace(self, shift=(self.shift[0] + right, self.shift[1] + down), seed=int(rng.integers(2**32)))

    def matrix(self, size: int) -> np.ndarray:
        """(3, 3) within a square of `size` pixels: stretch, shear, turn, enlarge about its centre, mirror, move."""
        middle = (size - 1) / 2
        matrix = np.vstack([cv2.getRotationMatrix2D((middle, middle), self.turn, self.zoom), [0, 0, 1]])
        (wide, high), shear = self.stretch, self.shear
        left, top = middle * (1 - wide - shear), middle * (1 - high)
        matrix = matrix @ np.array([[wide, shear, left], [0, high, top], [0, 0, 1]])
        if self.flip:
            matrix[0] = np.array([0, 0, size - 1]) - matrix[0]
        matrix[:2, 2] += self.shift
        return matrix

    def apply_photometric(self, frames: np.ndarray) -> np.ndarray:
        """Blurs, recolours, makes noisy and compresses (N, S, S, 3) uint8 BGR."""
        if self.blur:
            frames = np.stack([cv2.GaussianBlur(frame, (0, 0), self.blur) for frame in frames])
        tall = self._adjust_color(frames.reshape(-1, *frames.shape[2:]))  # one picture, the frames below each other
        if self.noise:
            noise = np.random.default_rng(self.seed).standard_normal(tall.shape, np.float32)
            tall = np.clip(np.rint(noise * np.float32(self.noise) + tall), 0, 255).astype(np.uint8)
        frames = tall.reshape(frames.shape)
        return np.stack([_compress(frame, self.quality) for frame in frames]) if self.quality else frames

    def _adjust_color(self, picture: np.ndarray) -> np.ndarray:
        gains = self.gains
        if self.grey:
            picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
            gains = (sum(gains) / 3,) * 3
        if self.gamma == 1 and set(gains) == {1}:
            return picture
        table = 255 * (np.arange(256)[:, None] / 255) ** self.gamma * gains
        return cv2.LUT(picture, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None])


def _compress(face: np.ndarray, quality: int) -> np.ndarray:
    again = cv2.imdecode(cv2.imencode(".jpg", face, (cv2.IMWRITE_JPEG_QUALITY, quality))[1], cv2.IMREAD_COLOR)
    assert again is not None
    return again


@dataclass(frozen=True)
class MelTransform:
    """One disguise of a sound; the default is none. Digital silence stays what it is.

    Attributes:
        gain, tilt: added to the mel, the tilt from -tilt at the lowest band to tilt at the highest.
        noise: standard deviation. bands: (first, width) of each masked band.
        pauses: (place, width) of each masked stretch of columns, its place from 0, at the beginning, to 1, at the end.
            What is masked has the mean's value.
        warp: band b holds what band b * warp held.
        offset: seconds by which what is heard is later than what is seen. seed: of the noise.
    """

    gain: float = 0.0
    tilt: float = 0.0
    noise: float = 0.0
    bands: tuple[tuple[int, int], ...] = ()
    pauses: tuple[tuple[float, int], ...] = ()
    offset: float = 0.0
    seed: int = 0
    warp: float = 1.0

    @classmethod
    def draw(cls, augmentation: Augmentation, rng: np.random.Generator, config: AudioConfig = AudioConfig()) -> MelTransform:
        """A transform; masks are as wide as asked at most."""
        gain, tilt, offset = (rng.uniform(-most, most) for most in (augmentation.mel_gain, augmentation.mel_tilt, augmentation.offset))
        widths = rng.integers(0, augmentation.bands[1] + 1, size=augmentation.bands[0]).tolist()
        bands = tuple((int(rng.integers(0, config.n_mels - width + 1)), width) for width in widths)
        widths = rng.integers(0, augmentation.pauses[1] + 1, size=augmentation.pauses[0]).tolist()
        pauses = tuple((rng.random(), width) for width in widths)
        seed, warp = int(rng.integers(2**32)), float(np.exp(rng.uniform(-augmentation.mel_warp, augmentation.mel_warp)))
        return cls(gain, tilt, augmentation.mel_noise, bands, pauses, offset, seed, warp)

    def apply(self, mel: np.ndarray, config: AudioConfig = AudioConfig()) -> np.ndarray:
        """A stretch of mel, (80, T), disguised; its offset is its reader's affair."""
        if not mel.size:
            return mel
        mel = _stretch_bands(mel, self.warp)
        top, (height, width) = np.float32(config.max_abs_value), mel.shape
        changed = mel + np.float32(self.gain) + np.linspace(-self.tilt, self.tilt, height, dtype=np.float32)[:, None]
        if self.noise:
            noise = np.random.default_rng(self.seed).standard_normal(mel.shape, np.float32)
            changed += np.float32(self.noise) * noise
        mean = changed.mean()
        for low, wide in self.bands:
            changed[low : low + wide] = mean
        for place, wide in self.pauses:
            room = max(width - wide, 0)
            start = min(int(place * (room + 1)), room)
            changed[:, start : start + wide] = mean
        return np.where(mel > -top, np.clip(changed, -top, top), mel)


def _stretch_bands(mel: np.ndarray, factor: float) -> np.ndarray:
    """(80, T) whose band b holds what band b * factor held, between its two neighbours in proportion."""
    if factor == 1:
        return mel
    source = np.minimum(np.arange(len(mel)) * factor, len(mel) - 1)
    below = source.astype(int)
    above = np.minimum(below + 1, len(mel) - 1)
    share = (source - below)[:, None].astype(np.float32)
    return (1 - share) * mel[below] + share * mel[above]


IDENTITY_IMAGE, IDENTITY_MEL = ImageTransform(), MelTransform()  # pictures as they are, sound as it is
