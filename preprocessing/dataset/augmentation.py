"""Data augmentation of a window's frames and audio; every frame of a window is transformed the same way."""

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
    """Augmentation ranges. Parameters are drawn once per window.

    Attributes:
        shift: maximum translation in each direction, in pixels of a 96-pixel crop.
        turn: maximum rotation in degrees, either way. zoom: range of the scale factor.
        stretch: log of the maximum additional scale factor, drawn independently for width and height.
        shear: maximum horizontal shear, either way, in pixels per row from the center.
        flip, grey, blur, jpeg: share of windows that are mirrored, converted to grayscale, blurred, JPEG-compressed.
        gain: range of the color gains. tint: how much they differ: 0 equal for all channels, 1 independent.
        gamma: range of the gamma exponent.
        sigma: range of the blur's standard deviation in pixels. quality: range of JPEG quality, 1 to 100.
        noise: maximum standard deviation of the pixel noise, in levels of 255.
        mel_gain, mel_tilt: maximum change of the mel level, either way: overall, and of the highest band relative to
            the middle one. mel_noise: standard deviation of the mel noise.
        mel_warp: log of the maximum frequency warp factor, simulating another vocal tract length (VTLP, Jaitly & Hinton
            2013).
        bands, pauses: (number, maximum width) of masked mel bands and masked spans of mel columns.
        offset: maximum audio delay or advance in seconds.
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
                raise UsageError(f"{name} must be a share from 0 to 1, not {getattr(self, name)}")
        for name in WARPS:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name)[0] <= getattr(self, name)[1] <= high:
                raise UsageError(
                    f"{name} must be an ascending range between {low} and {high}, not {getattr(self, name)}"
                )
        for item in fields(self):
            if np.min(getattr(self, item.name)) < 0:
                raise UsageError(f"{item.name} must be 0 or more, not {getattr(self, item.name)}")

    @classmethod
    def none(cls) -> Augmentation:
        """The identity: changes nothing."""
        nothing: dict[str, Any] = {item.name: 0.0 for item in fields(cls)}
        ranges = dict.fromkeys(("zoom", "gain", "gamma", "sigma"), (1.0, 1.0))
        return cls(**nothing | ranges | {"quality": (100, 100), "bands": (0, 0), "pauses": (0, 0)})


@dataclass(frozen=True)
class ImageTransform:
    """A deterministic image transform; the default is the identity.

    Attributes:
        shift: translation right and down in pixels. turn: rotation in degrees, counterclockwise. zoom: scale factor.
        flip, grey: whether to mirror the image and to convert it to grayscale.
        stretch: scale factors of width and height. shear: pixels to the right per pixel below the center.
        gains: factors of blue, green and red. gamma: exponent. blur, noise: standard deviations, 0 for none.
        quality: JPEG quality, 0 for no compression. seed: seed of the noise.
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
    def draw(cls, limits: Augmentation, rng: np.random.Generator, scale: float = 1.0) -> ImageTransform:
        """Draws a transform for images with `scale` pixels per pixel of a 96-pixel crop.

        Shifts are whole pixels, so that faces at their original size stay sharp.
        """
        max_shift = round(limits.shift * scale)
        flip, grey, blur, jpeg = (rng.random(4) < (limits.flip, limits.grey, limits.blur, limits.jpeg)).tolist()
        gains = rng.uniform(*limits.gain, size=3)
        gains = limits.tint * gains + (1 - limits.tint) * gains.mean()
        right, down = rng.integers(-max_shift, max_shift + 1, size=2).tolist()
        sigma, quality = (
            rng.uniform(*limits.sigma),
            int(rng.integers(limits.quality[0], limits.quality[1] + 1)),
        )
        return cls(
            (right, down), rng.uniform(-limits.turn, limits.turn), rng.uniform(*limits.zoom), flip, grey,
            tuple(gains.tolist()), rng.uniform(*limits.gamma), sigma if blur else 0.0, rng.uniform(0, limits.noise),
            quality if jpeg else 0, int(rng.integers(2**32)),
            tuple(np.exp(rng.uniform(-limits.stretch, limits.stretch, size=2)).tolist()),
            rng.uniform(-limits.shear, limits.shear),
        )  # fmt: skip

    def jittered(self, pixels: int, rng: np.random.Generator) -> ImageTransform:
        """The same transform with up to `pixels` of additional shift and new noise."""
        right, down = rng.integers(-pixels, pixels + 1, size=2).tolist()
        return replace(self, shift=(self.shift[0] + right, self.shift[1] + down), seed=int(rng.integers(2**32)))

    def matrix(self, size: int) -> np.ndarray:
        """(3, 3) for a square of `size` pixels: stretch, shear, rotate and scale about the center, flip, shift."""
        center = (size - 1) / 2
        matrix = np.vstack([cv2.getRotationMatrix2D((center, center), self.turn, self.zoom), [0, 0, 1]])
        (wide, high), shear = self.stretch, self.shear
        left, top = center * (1 - wide - shear), center * (1 - high)
        matrix = matrix @ np.array([[wide, shear, left], [0, high, top], [0, 0, 1]])
        if self.flip:
            matrix[0] = np.array([0, 0, size - 1]) - matrix[0]
        matrix[:2, 2] += self.shift
        return matrix

    def apply_photometric(self, frames: np.ndarray) -> np.ndarray:
        """Applies blur, color, noise and JPEG compression to (N, S, S, 3) uint8 BGR."""
        if self.blur:
            frames = np.stack([cv2.GaussianBlur(frame, (0, 0), self.blur) for frame in frames])
        # One tall image, the frames stacked vertically.
        tall = self._adjust_color(frames.reshape(-1, *frames.shape[2:]))
        if self.noise:
            noise = np.random.default_rng(self.seed).standard_normal(tall.shape, np.float32)
            tall = np.clip(np.rint(noise * np.float32(self.noise) + tall), 0, 255).astype(np.uint8)
        frames = tall.reshape(frames.shape)
        return np.stack([_compress(frame, self.quality) for frame in frames]) if self.quality else frames

    def _adjust_color(self, image: np.ndarray) -> np.ndarray:
        gains = self.gains
        if self.grey:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
            gains = (sum(gains) / 3,) * 3
        if self.gamma == 1 and set(gains) == {1}:
            return image
        table = 255 * (np.arange(256)[:, None] / 255) ** self.gamma * gains
        return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None])


def _compress(face: np.ndarray, quality: int) -> np.ndarray:
    decoded = cv2.imdecode(cv2.imencode(".jpg", face, (cv2.IMWRITE_JPEG_QUALITY, quality))[1], cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


@dataclass(frozen=True)
class MelTransform:
    """A deterministic mel transform; the default is the identity. Digital silence is unchanged.

    Attributes:
        gain, tilt: added to the mel; the tilt goes from -tilt at the lowest band to tilt at the highest.
        noise: standard deviation of the noise. bands: (first, width) of each masked range of bands.
        pauses: (position, width) of each masked span of columns, position from 0 (start) to 1 (end). Masked values are
            set to the mean.
        warp: frequency warp; output band b is input band b * warp.
        offset: audio delay relative to the video in seconds. seed: seed of the noise.
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
    def draw(cls, limits: Augmentation, rng: np.random.Generator, config: AudioConfig = AudioConfig()) -> MelTransform:
        """Draws a transform; mask widths are uniform up to the maximum."""
        gain, tilt, offset = (rng.uniform(-most, most) for most in (limits.mel_gain, limits.mel_tilt, limits.offset))
        widths = rng.integers(0, limits.bands[1] + 1, size=limits.bands[0]).tolist()
        bands = tuple((int(rng.integers(0, config.n_mels - width + 1)), width) for width in widths)
        widths = rng.integers(0, limits.pauses[1] + 1, size=limits.pauses[0]).tolist()
        pauses = tuple((rng.random(), width) for width in widths)
        seed, warp = int(rng.integers(2**32)), float(np.exp(rng.uniform(-limits.mel_warp, limits.mel_warp)))
        return cls(gain, tilt, limits.mel_noise, bands, pauses, offset, seed, warp)

    def apply(self, mel: np.ndarray, config: AudioConfig = AudioConfig()) -> np.ndarray:
        """Transforms a mel span (80, T). The offset is not applied; the caller handles it."""
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
        for position, wide in self.pauses:
            latest = max(width - wide, 0)
            start = min(int(position * (latest + 1)), latest)
            changed[:, start : start + wide] = mean
        return np.where(mel > -top, np.clip(changed, -top, top), mel)


def _stretch_bands(mel: np.ndarray, factor: float) -> np.ndarray:
    """Warps the bands of (80, T): output band b is input band b * factor, linearly interpolated."""
    if factor == 1:
        return mel
    source = np.minimum(np.arange(len(mel)) * factor, len(mel) - 1)
    below = source.astype(int)
    above = np.minimum(below + 1, len(mel) - 1)
    share = (source - below)[:, None].astype(np.float32)
    return (1 - share) * mel[below] + share * mel[above]


IDENTITY_IMAGE, IDENTITY_MEL = ImageTransform(), MelTransform()
