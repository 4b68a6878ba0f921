"""The generator: maps a masked face, a reference face and audio to the speaking face."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError
from syncnet.model import ConvBlock, audio_tower


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator's architecture. The defaults are those of the released network.

    The masked area always spans the full width from `mask_row` to the lower edge. The original masks the lower half,
    `size / 2`; from row 40 of 96 of a points crop, cheeks and jaw are masked as well, so that nothing visible reveals
    how far the mouth is open.

    Attributes:
        width: channels of the first face layer; all other widths scale with it.
        size: side of the square input in pixels: 96, 192, 384, ...
        mask_row: first masked row of the target face, in pixels.
    """

    width: int = 16
    size: int = 96
    mask_row: int = 48

    def __post_init__(self) -> None:
        if self.size < 96 or self.size % 96 or (self.size // 96) & (self.size // 96 - 1):
            raise UsageError(f"the generator's size must be 96 times a power of two, not {self.size}")
        if self.width < 1:
            raise UsageError(f"the generator's width must be 1 or more, not {self.width}")
        if not 0 < self.mask_row < self.size:
            raise UsageError(f"mask_row must be within the {self.size} rows of the image, not {self.mask_row}")


class ConvTransposeBlock(nn.Module):
    """Transposed convolution, batch norm, ReLU; `conv_block` is part of the released keys."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, output_padding: int = 0
    ) -> None:
        super().__init__()
        convolution = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride, padding, output_padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H', W')."""
        return F.relu(self.conv_block(x))


def _down(in_channels: int, out_channels: int, residuals: int) -> nn.Sequential:
    rest = [ConvBlock(out_channels, out_channels, 3, 1, 1, True) for _ in range(residuals)]
    return nn.Sequential(ConvBlock(in_channels, out_channels, 3, 2, 1), *rest)


def _up(in_channels: int, out_channels: int) -> nn.Sequential:
    rest = [ConvBlock(out_channels, out_channels, 3, 1, 1, True) for _ in range(2)]
    return nn.Sequential(ConvTransposeBlock(in_channels, out_channels, 3, 2, 1, 1), *rest)


def _face_encoder(first: int, extra: int) -> tuple[nn.ModuleList, list[int]]:
    """The face encoder and its feature channels, finest first, with `extra` downsampling stages in front."""
    base = [first * k for k in (1, 2, 4, 8, 16, 32, 32)]
    widths = [first] * extra + base
    blocks: list[nn.Module] = [nn.Sequential(ConvBlock(6, widths[0], 7, 1, 3))]
    residuals = [2] * extra + [2, 3, 2, 2, 1]
    for (inputs, outputs), count in zip(pairwise(widths[:-1]), residuals, strict=True):
        blocks.append(_down(inputs, outputs, count))
    last = base[-1]
    blocks.append(nn.Sequential(ConvBlock(last, last, 3, 1, 0), ConvBlock(last, last, 1, 1, 0)))
    return nn.ModuleList(blocks), widths


def _face_decoder(first: int, extra: int, skips: list[int]) -> tuple[nn.ModuleList, int]:
    """The decoder; each block's output is concatenated with the encoder feature of the same size."""
    outs = [first * k for k in (32, 32, 32, 24, 16, 8, 4)] + [first * 4] * extra
    sources = [before + skip for before, skip in zip(outs, reversed(skips), strict=True)]
    blocks: list[nn.Module] = [nn.Sequential(ConvBlock(outs[0], outs[0], 1, 1, 0))]
    widen = ConvTransposeBlock(sources[0], outs[1], 3, 1, 0)
    blocks.append(nn.Sequential(widen, ConvBlock(outs[1], outs[1], 3, 1, 1, True)))
    blocks += [_up(source, out) for source, out in zip(sources[1:-1], outs[2:], strict=True)]
    return nn.ModuleList(blocks), sources[-1]


class Generator(nn.Module):
    """The released generator, with configurable width and input size.

    With the default configuration, state-dict keys and shapes are those of the release (36,298,035 parameters).
    Source: "A Lip Sync Expert Is All You Need" (2020), section 3.2.
    """

    def __init__(self, config: GeneratorConfig = GeneratorConfig()) -> None:
        super().__init__()
        self.config = config
        first, extra = config.width, (config.size // 96).bit_length() - 1
        self.face_encoder_blocks, skips = _face_encoder(first, extra)
        self.audio_encoder = audio_tower([first * k for k in (2, 4, 8, 16)], first * 32)
        self.face_decoder_blocks, joined = _face_decoder(first, extra, skips)
        self.output_block = nn.Sequential(
            ConvBlock(joined, first * 2, 3, 1, 1), nn.Conv2d(first * 2, 3, 1), nn.Sigmoid()
        )

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Generates faces.

        Args:
            mel: (B, 1, 80, 16), -4 to 4; or (B, T, 1, 80, 16).
            faces: (B, 6, S, S), 0 to 1: the target with its lower part masked, then the reference, both BGR
                (see `mask_and_stack`); or (B, 6, T, S, S).

        Returns:
            (B, 3, S, S) or (B, 3, T, S, S), BGR, 0 to 1.
        """
        if faces.ndim == 5:
            batch = faces.shape[0]
            flat = self(mel.transpose(0, 1).flatten(0, 1), faces.permute(2, 0, 1, 3, 4).flatten(0, 1))
            return flat.unflatten(0, (-1, batch)).permute(1, 2, 0, 3, 4)  # time-major, as in the original
        features = []
        x = faces
        for block in self.face_encoder_blocks:
            x = block(x)
            features.append(x)
        x = self.audio_encoder(mel)
        for block in self.face_decoder_blocks:
            x = torch.cat((block(x), features.pop()), dim=1)
        return self.output_block(x)


def mask_and_stack(target: np.ndarray, reference: np.ndarray, mask_row: int) -> np.ndarray:
    """Builds the generator's input.

    Args:
        target: (B, S, S, 3) uint8 BGR; masked from `mask_row` on.
        reference: (B, S, S, 3) uint8 BGR, unmasked.
        mask_row: the first masked row.

    Returns:
        (B, 6, S, S) float32, 0 to 1.
    """
    stacked = np.concatenate((target, reference), axis=-1).transpose(0, 3, 1, 2).astype(np.float32)
    stacked[:, :3, mask_row:] = 0
    return np.ascontiguousarray(stacked) / np.float32(255)
