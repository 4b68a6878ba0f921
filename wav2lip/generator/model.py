"""The generator: maps a masked face, a reference face and audio to the speaking face."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError
from syncnet.model import ConvBlock, audio_tower, small_audio_tower

FIELDS = 6  # output channels of a warping generator: flow x, flow y, blue, green, red, mixing weight
FLOW_LEVEL = 4  # decoder level of the flow: 24x24 of 96, coarse enough to be smooth by construction


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator's architecture. The defaults are those of the released network.

    The masked area always spans the full width from `mask_row` to the lower edge. The original masks the lower half,
    `size / 2`; from row 40 of 96 of a points crop, cheeks and jaw are masked as well, so that nothing visible reveals
    how far the mouth is open.

    Attributes:
        network: "released" is the published architecture, `Generator`; "unet" is ours,
            `wav2lip.generator.unet.UNetGenerator`.
        width: channels of the first face layer (16 as released, 32 in ours); all other widths scale with it.
        size: side of the square input in pixels: 96, 192, 384, ... as released, any multiple of 16 for ours.
        mask_row: first masked row of the target face, in pixels.
        output: "paint" outputs the image through a sigmoid, as released; "warp" outputs six fields that `render` turns
            into an image: a flow over the reference, a color and a mixing weight.
        max_flow: length of the longest flow vector as a fraction of `size` ("warp" only).
        audio_encoder: "own" is the released audio encoder; "syncnet" is our sync expert's audio tower, frozen, followed
            by two linear layers.
        audio_encoder_norm: the norm in that tower, see `SmallSyncNet`.
    """

    width: int = 16
    size: int = 96
    mask_row: int = 48
    output: Literal["paint", "warp"] = "paint"
    max_flow: float = 0.25
    audio_encoder: Literal["own", "syncnet"] = "own"
    audio_encoder_norm: Literal["group", "layer"] = "group"
    network: Literal["released", "unet"] = "released"

    def __post_init__(self) -> None:
        choices = {"network": ("released", "unet"), "output": ("paint", "warp"), "audio_encoder": ("own", "syncnet")}
        for name, legal in (choices | {"audio_encoder_norm": ("group", "layer")}).items():
            if (value := getattr(self, name)) not in legal:
                raise UsageError(f"the generator's {name} must be {legal[0]!r} or {legal[1]!r}, not {value!r}")
        if self.network == "unet":
            self._check_unet()
        elif self.size < 96 or self.size % 96 or (self.size // 96) & (self.size // 96 - 1):
            raise UsageError(f"the generator's size must be 96 times a power of two, not {self.size}")
        if self.width < 1 or not 0 < self.max_flow <= 1:
            raise UsageError(
                f"the generator's width must be 1 or more and max_flow in (0, 1], not {self.width} and {self.max_flow}"
            )
        if not 0 < self.mask_row < self.size:
            raise UsageError(f"mask_row must be within the {self.size} rows of the image, not {self.mask_row}")

    def _check_unet(self) -> None:
        if (self.output, self.audio_encoder) != ("warp", "syncnet"):
            raise UsageError("the network 'unet' needs the output 'warp' and the audio_encoder 'syncnet'")
        if self.size < 64 or self.size % 16:
            raise UsageError(f"the size of the network 'unet' must be a multiple of 16, at least 64, not {self.size}")


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


class FrozenSyncNetEncoder(nn.Module):
    """Frozen audio tower of our sync expert and two linear layers: mel (B, 1, 80, 16) to (B, out_channels, 1, 1)."""

    def __init__(
        self, out_channels: int, norm: str, hidden: int = 512, activation: type[nn.Module] = nn.ReLU,
        dimension: int = 256,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale = dimension**0.5
        self.tower = small_audio_tower(dimension, norm).requires_grad_(False)
        self.head = nn.Sequential(
            nn.Linear(dimension, hidden), activation(), nn.Linear(hidden, out_channels), activation()
        )

    def forward(self, mel: Tensor) -> Tensor:
        """Scales the embedding to unit variance: the entries of a 256-dimensional unit vector are about 1/16."""
        embedding = F.normalize(self.tower(mel / 4).float()) * self.scale
        return self.head(embedding)[:, :, None, None]


class FlowBlock(nn.Module):
    """Predicts the flow from a decoder level's features, modulated by the audio embedding.

    Feature-wise modulation (FiLM, arXiv 1709.07871; AdaIN's affine part) gives the audio a short path to the lips;
    through the five decoder levels before it, training takes thousands of steps to find one.
    """

    def __init__(self, channels: int, audio_channels: int) -> None:
        super().__init__()
        self.style = nn.Linear(audio_channels, 2 * channels)
        self.features = ConvBlock(channels, channels // 2, 3, 1, 1)
        self.flow = nn.Conv2d(channels // 2, 2, 1)

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        """Features (B, channels, H, W) and the audio embedding (B, audio_channels, 1, 1) to raw flow (B, 2, H, W)."""
        scale, shift = self.style(audio.flatten(1))[:, :, None, None].chunk(2, dim=1)
        return self.flow(self.features(x * (1 + scale) + shift))


class Generator(nn.Module):
    """The released generator, with configurable width, input size and output.

    With the default configuration, state-dict keys and shapes are those of the release (36,298,035 parameters).
    Source: "A Lip Sync Expert Is All You Need" (2020), section 3.2.
    """

    def __init__(self, config: GeneratorConfig = GeneratorConfig()) -> None:
        super().__init__()
        self.config = config
        first, extra = config.width, (config.size // 96).bit_length() - 1
        self.face_encoder_blocks, skips = _face_encoder(first, extra)
        self.audio_encoder: nn.Module
        if config.audio_encoder == "own":
            self.audio_encoder = audio_tower([first * k for k in (2, 4, 8, 16)], first * 32)
        else:
            self.audio_encoder = FrozenSyncNetEncoder(first * 32, config.audio_encoder_norm)
        self.face_decoder_blocks, joined = _face_decoder(first, extra, skips)
        channels = 3 if config.output == "paint" else FIELDS - 2
        self.output_block = nn.Sequential(ConvBlock(joined, first * 2, 3, 1, 1), nn.Conv2d(first * 2, channels, 1))
        if config.output == "paint":
            self.output_block.append(nn.Sigmoid())
        else:
            self.flow_block = FlowBlock(first * 16, first * 32)
            paint = self.output_block[1]
            assert isinstance(paint, nn.Conv2d)
            init_as_copy(self.flow_block.flow, paint)

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Generates faces.

        Args:
            mel: (B, 1, 80, 16), -4 to 4; or (B, T, 1, 80, 16).
            faces: (B, 6, S, S), 0 to 1: the target with its lower part masked, then the reference, both BGR
                (see `mask_and_stack`); or (B, 6, T, S, S).

        Returns:
            (B, 3, S, S) or (B, 3, T, S, S), BGR, 0 to 1; with output "warp", six fields for `render` instead of three
            channels.
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
        x = audio = self.audio_encoder(mel)
        flow = None
        for level, block in enumerate(self.face_decoder_blocks):
            x = block(x)
            if level == FLOW_LEVEL and self.config.output == "warp":
                flow = self.flow_block(x, audio)
                flow = F.interpolate(flow, faces.shape[-2:], mode="bilinear", align_corners=False)
            x = torch.cat((x, features.pop()), dim=1)
        output = self.output_block(x)
        return output if flow is None else torch.cat((flow, output), dim=1)


def init_as_copy(flow: nn.Conv2d, paint: nn.Conv2d) -> None:
    """Zeroes the weights: no flow and little painted color, so that training starts from a copy of the reference.

    The last quarter of `paint`'s channels is the mixing weight.
    """
    for layer in (flow, paint):
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    assert paint.bias is not None
    with torch.no_grad():
        paint.bias[-paint.out_channels // 4 :] = -3.0  # sigmoid(-3) = 0.05 of the painted color


def flow_ramp(config: GeneratorConfig) -> np.ndarray:
    """Scale of the flow in each row, (S,) float32: 0 at the first masked row, rising to 1 within S / 10 rows.

    The rows above the mask are copied, so a non-zero flow at the border would tear the nose.
    """
    rows = (np.arange(config.size) + 0.5 - config.mask_row) / (config.size / 10)
    return (0.5 - 0.5 * np.cos(np.pi * np.clip(rows, 0, 1))).astype(np.float32)


def split_fields(fields: Tensor, config: GeneratorConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Splits a warping generator's raw output (B, 6, S, S) into flow, color and mixing weight.

    Returns:
        flow (B, 2, S, S) in fractions of the side (x, y), at most `max_flow`; color (B, 3, S, S), 0 to 1; mixing weight
        of the color (B, 1, S, S), 0 to 1.
    """
    ramp = torch.from_numpy(flow_ramp(config)).to(fields)[:, None]
    flow = config.max_flow * ramp * torch.tanh(fields[:, :2])
    return flow, torch.sigmoid(fields[:, 2:5]), torch.sigmoid(fields[:, 5:6])


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Samples `image` (B, C, H, W) at each pixel's position plus `flow` (B, 2, H, W; fractions of the side, x, y)."""
    height, width = flow.shape[-2:]
    ys = (torch.arange(height, device=flow.device, dtype=flow.dtype) + 0.5) * 2 / height - 1
    xs = (torch.arange(width, device=flow.device, dtype=flow.dtype) + 0.5) * 2 / width - 1
    base = torch.stack(torch.meshgrid(xs, ys, indexing="xy"))
    grid = (base + 2 * flow).permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def render(fields: Tensor, faces: Tensor, config: GeneratorConfig, paint_gradient: bool = True) -> Tensor:
    """Renders a warping generator's output: warped reference mixed with the color, below the target's upper part.

    Args:
        fields: (B, 6, S, S), the generator's output.
        faces: (B, 6, S, S), the generator's input.
        config: the generator's.
        paint_gradient: whether gradients reach color and mixing weight; if not, they reach only the flow.

    Returns:
        (B, 3, S, S), 0 to 1.
    """
    flow, color, weight = split_fields(fields, config)
    if not paint_gradient:
        color, weight = color.detach(), weight.detach()
    lower = torch.lerp(warp(faces[:, 3:], flow), color, weight)
    return torch.cat((faces[:, :3, : config.mask_row], lower[:, :, config.mask_row :]), dim=2)


def frames_from_output(output: Tensor, faces: Tensor, config: GeneratorConfig, paint_gradient: bool = True) -> Tensor:
    """Frames (B, 3, S, S) from any generator's output: rendered if it warps, unchanged if it paints; see `render`."""
    return render(output, faces, config, paint_gradient) if config.output == "warp" else output


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
