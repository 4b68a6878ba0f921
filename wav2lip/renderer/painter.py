"""The painter: a network that completes the inner mouth where neither the frame nor the person's other frames show it.

A U-Net at half resolution. It copies before it paints: its output is a softmax over the warped frame, the composite
with the retrieved mouth, and its own paint, so that copied parts keep their native detail. The paint's brightness is at
full resolution, its color at a quarter, smoothed and halfway to the composite's: teeth and tongue differ in brightness
at every scale, in hue only at large ones, and what a critic teaches of hues are colored specks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError
from training.checkpoint import Checkpoint
from wav2lip.renderer.painter_inputs import CHANNELS, DENSITY, HEIGHT, INPUTS, PLANES, WEIGHTS, WIDTH

KIND = "mouth-painter"
CROP = {"kind": "mouth plane", "width": WIDTH, "height": HEIGHT, "pixels_per_unit": DENSITY}
FINE_CHANNELS = 10  # of inputs at full resolution: composite, cut, reference, inner
COARSE_CHANNELS = 7  # of inputs at half of it: source, lips, retrieved, x, y
SLOPE = 0.1  # of the leaky ReLUs
CHROMA = ((1.772, 0.0), (-0.344, -0.714), (0.0, 1.402))  # BGR by Cb and Cr (ITU-T T.871)
TO_CHROMA = ((0.5, -0.331, -0.169), (-0.081, -0.419, 0.5))  # Cb and Cr by BGR
COMPOSITE_COLOR = 0.5  # share of the composite's color in that of the paint
COLOR_REACH = 4  # pixels; the color is smoothed by a Gaussian of half that standard deviation


@dataclass(frozen=True)
class PainterConfig:
    """Architecture.

    Attributes:
        widths: channels at 1/2, 1/4 and 1/8 of the crop's resolution.
        depth: residual blocks at 1/8.
        code: numbers that describe the person, from their other mouths; 0 for none.
    """

    widths: tuple[int, ...] = (24, 48, 96)
    depth: int = 2
    code: int = 0

    def __post_init__(self) -> None:
        if len(self.widths) != 3 or min(self.widths) < 1 or self.depth < 1 or self.code < 0:
            raise UsageError(
                "a painter needs three widths and a depth, all 1 or more, and a code of 0 or more, not "
                f"{self.widths}, {self.depth} and {self.code}"
            )


class Painted(NamedTuple):
    """The painter's output.

    Attributes:
        image: (B, 3, HEIGHT, WIDTH), the mixture.
        weights: (B, 3, HEIGHT, WIDTH), softmax over warped frame, composite and paint.
        paint: (B, 3, HEIGHT, WIDTH).
    """

    image: Tensor
    weights: Tensor
    paint: Tensor


class ResidualConv(nn.Module):
    """x + conv(activation(conv(x))), activated; without norms, whose backward pass is slow on CPUs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w), same shape."""
        return F.leaky_relu(x + self.second(F.leaky_relu(self.first(x), SLOPE)), SLOPE)


class PersonEncoder(nn.Module):
    """A code of the person from some of their mouths, the mean over these (arXiv 1905.08233, section 3.1)."""

    def __init__(self, code: int, width: int = 24) -> None:
        super().__init__()
        sizes = pairwise((4, width, 2 * width, 4 * width))
        self.layers = nn.ModuleList(nn.Conv2d(one, other, 4, 2, 1) for one, other in sizes)
        self.head = nn.Linear(4 * width, code)

    def forward(self, mouths: Tensor) -> Tensor:
        """(B, K, 4, HEIGHT, WIDTH) BGR mouths and the masks of their openings, 0 to 1 → (B, code)."""
        x = mouths.flatten(0, 1) * 2 - 1
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        return self.head(x.mean((2, 3))).unflatten(0, mouths.shape[:2]).mean(1)


class MouthPainter(nn.Module):
    """The painter's network."""

    def __init__(self, config: PainterConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PainterConfig()
        fine, middle, coarse = config.widths
        self.stem = nn.Conv2d(4 * FINE_CHANNELS + COARSE_CHANNELS, fine, 3, padding=1)
        self.down1 = nn.Conv2d(fine, middle, 4, 2, 1)
        self.block1 = ResidualConv(middle)
        self.down2 = nn.Conv2d(middle, coarse, 4, 2, 1)
        self.bottom = nn.Sequential(*(ResidualConv(coarse) for _ in range(config.depth)))
        self.person = PersonEncoder(config.code) if config.code else None
        self.modulation = nn.Linear(config.code, 2 * config.depth * coarse) if config.code else None
        self.up2 = nn.Conv2d(coarse, middle, 1)
        self.join1 = ResidualConv(middle)
        self.up1 = nn.Conv2d(middle, fine, 1)
        self.join0 = ResidualConv(fine)
        self.head = nn.Conv2d(fine, 4 * (3 + 1), 3, padding=1)  # weights and brightness
        self.color = nn.Conv2d(middle, 2, 3, padding=1)
        self.register_buffer("chroma", torch.tensor(CHROMA)[:, :, None, None], persistent=False)
        self.register_buffer("to_chroma", torch.tensor(TO_CHROMA)[:, :, None, None], persistent=False)
        offsets = torch.arange(-COLOR_REACH, COLOR_REACH + 1.0)
        bell = torch.softmax(-2 * (offsets / COLOR_REACH) ** 2, 0)
        self.register_buffer("smoothing", torch.outer(bell, bell).expand(2, 1, -1, -1).clone(), persistent=False)
        self.chroma: Tensor
        self.to_chroma: Tensor
        self.smoothing: Tensor
        rows = torch.linspace(-1, 1, HEIGHT // 2)[:, None].expand(-1, WIDTH // 2)
        columns = torch.linspace(-1, 1, WIDTH // 2).expand(HEIGHT // 2, -1)
        self.register_buffer("position", torch.stack([columns, rows])[None], persistent=False)
        self.position: Tensor
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type] # it has one
        with torch.no_grad():
            if self.modulation is not None:
                self.modulation.weight *= 0.1
            for head in (self.head, self.color):
                head.weight *= 0.1
            for block in self.modules():
                if isinstance(block, ResidualConv):
                    block.second.weight *= 0.3
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # faster convolutions

    def forward(self, planes: dict[str, Tensor]) -> Painted:
        """Paints mouths.

        Args:
            planes: (B, 3 or 1, HEIGHT, WIDTH) each, BGR and masks in 0 to 1: composite, warped, source, reference,
                inner, lips, retrieved (see `painter_inputs.PLANES`); with a code also `others`, see `PersonEncoder`.
        """
        x = F.leaky_relu(self.stem(self._inputs(planes)), SLOPE)
        half = self.block1(F.leaky_relu(self.down1(x), SLOPE))
        quarter = self._bottom(F.leaky_relu(self.down2(half), SLOPE), planes)
        half = self.join1(half + F.interpolate(self.up2(quarter), scale_factor=2.0))
        x = self.join0(x + F.interpolate(self.up1(half), scale_factor=2.0))
        output = F.pixel_shuffle(self.head(x), 2).float()
        weights = torch.softmax(output[:, :3], 1)
        paint = output[:, 3:] + 0.5 + self._color(self.color(half).float(), planes["composite"])
        image = weights[:, :1] * planes["warped"] + weights[:, 1:2] * planes["composite"] + weights[:, 2:] * paint
        return Painted(image, weights, paint)

    def _bottom(self, x: Tensor, planes: dict[str, Tensor]) -> Tensor:
        """The coarsest blocks, each before its own scale and shift by the person's code (FiLM, arXiv 1709.07871)."""
        if self.person is None or self.modulation is None:
            return self.bottom(x)
        changes = self.modulation(self.person(planes["others"])).unflatten(1, (self.config.depth, 2, -1))
        for block, change in zip(self.bottom, changes.unbind(1), strict=True):
            x = block(x) * (1 + change[:, 0, :, None, None]) + change[:, 1, :, None, None]
        return x

    def _color(self, own: Tensor, composite: Tensor) -> Tensor:
        """The paint's color, (B, 3, HEIGHT, WIDTH) of brightness 0, from its own, (B, 2, HEIGHT / 4, WIDTH / 4)."""
        own = F.interpolate(own, scale_factor=4.0, mode="bilinear", align_corners=False)
        mixed = own + COMPOSITE_COLOR * (F.conv2d(composite.float(), self.to_chroma) - own)
        padded = F.pad(mixed, (COLOR_REACH,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, self.smoothing, groups=2), self.chroma)

    def _inputs(self, planes: dict[str, Tensor]) -> Tensor:
        cut = planes["warped"] * (1 - planes["inner"])
        fine = torch.cat([planes["composite"], cut, planes["reference"], planes["inner"]], 1)
        coarse = F.avg_pool2d(torch.cat([planes["source"], planes["lips"], planes["retrieved"]], 1), 2)
        position = self.position.to(fine.dtype).expand(len(fine), -1, -1, -1)
        inputs = torch.cat([F.pixel_unshuffle(fine, 2), coarse], 1) * 2 - 1
        return torch.cat([inputs, position], 1).contiguous(memory_format=torch.channels_last)

    def checkpoint(self, about: dict[str, Any] | None = None, step: int = 0) -> Checkpoint:
        """The network as a checkpoint; `about` is kept in its header."""
        config = asdict(self.config) | {"about": about or {}}
        return Checkpoint(KIND, config, {}, CROP, self.state_dict(), step)


class StackedPainter(nn.Module):
    """The painter with its inputs in one tensor, as inference engines want them."""

    def __init__(self, painter: MouthPainter) -> None:
        super().__init__()
        self.painter = painter

    def forward(self, stacked: Tensor) -> tuple[Tensor, Tensor]:
        """(1, CHANNELS, HEIGHT, WIDTH), the planes of INPUTS → weights and paint, (1, 3, HEIGHT, WIDTH) each."""
        parts = torch.split(stacked, [PLANES[name] for name in INPUTS], 1)
        painted = self.painter(dict(zip(INPUTS, parts, strict=True)))
        return painted.weights, painted.paint


def painter_module(painter: MouthPainter | None = None) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A painter, by default the bundled one, and example inputs, for `load_network`."""
    return StackedPainter(painter or load_painter()), (torch.rand(1, CHANNELS, HEIGHT, WIDTH),)


def load_painter(path: Path = WEIGHTS) -> MouthPainter:
    """Loads a checkpoint, for inference.

    Raises:
        UsageError: the file is missing, damaged, or of another network or crop.
    """
    checkpoint = Checkpoint.load(path, KIND)
    if checkpoint.crop != CROP:
        raise UsageError(f"{path} paints crops {checkpoint.crop}, not {CROP}")
    config = {name: checkpoint.config.get(name, 0) for name in ("widths", "depth", "code")}
    painter = MouthPainter(PainterConfig(**config | {"widths": tuple(config["widths"])}))
    painter.load_state_dict(checkpoint.weights)
    return painter.eval().requires_grad_(False)
