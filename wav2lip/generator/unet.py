"""Our generator: a small U-Net whose every level hears the sound, and that warps the reference before it paints."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syncnet.model import ChannelNorm
from wav2lip.generator.model import FrozenSyncNetEncoder, Generator, GeneratorConfig, start_as_copy

HEARD = 256  # components of what the sound is turned into


class FiLMResBlock(nn.Module):
    """A pre-activation residual block whose features the sound scales and shifts.

    Sources: residual blocks, arXiv 1603.05027; feature-wise modulation (FiLM), arXiv 1709.07871, which starts as none.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, sound: int = 0) -> None:
        """`sound`: components of the sound's vector; 0 for a block that does not hear."""
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(in_channels), ChannelNorm(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        shrink = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        widen = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.skip = nn.Sequential(shrink, widen)
        self.film = nn.Linear(sound, 2 * out_channels) if sound else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, sound: Tensor | None = None) -> Tensor:
        """(B, in, H, W) and, where it hears, (B, sound) to (B, out, H / stride, W / stride)."""
        y = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.film is not None:
            assert sound is not None
            scale, shift = self.film(sound)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(y))


class UNetGenerator(nn.Module):
    """Six fields from a masked face, a reference and a sound, as a warping `wav2lip.generator.model.Generator` gives them.

    The pictures are folded to half their size (pixel unshuffle, arXiv 1609.05158), halved three times and widened
    again; the flow is read at a quarter of their size, so that it is smooth by construction, the colour and its weight
    at the full one. Cost at 128 pixels and width 32: 3.4 M parameters, 0.8 GMAC.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        w0, w1, w2, w3 = (config.width * k for k in (1, 2, 4, 6))
        self.audio_encoder = FrozenSyncNetEncoder(HEARD, config.audio_encoder_norm, HEARD, nn.SiLU)
        self.stem = nn.Conv2d(6 * 4, w0, 3, 1, 1)
        self.down = nn.ModuleList(
            [FiLMResBlock(w0, w0), FiLMResBlock(w0, w1, 2), FiLMResBlock(w1, w2, 2), FiLMResBlock(w2, w3, 2, HEARD)]
        )
        self.middle = FiLMResBlock(w3, w3, 1, HEARD)
        self.up = nn.ModuleList(
            [
                FiLMResBlock(w3 + w2, w2, 1, HEARD),
                FiLMResBlock(w2 + w1, w1, 1, HEARD),
                FiLMResBlock(w1 + w0, w0, 1, HEARD),
            ]
        )
        self.flow = nn.Sequential(ChannelNorm(w1), nn.SiLU(), nn.Conv2d(w1, 2, 3, 1, 1))
        self.paint = nn.Sequential(ChannelNorm(w0), nn.SiLU(), nn.Conv2d(w0, 4 * 4, 3, 1, 1), nn.PixelShuffle(2))
        flow, paint = self.flow[2], self.paint[2]
        assert isinstance(flow, nn.Conv2d)
        assert isinstance(paint, nn.Conv2d)
        start_as_copy(flow, paint)

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Generates fields.

        Args:
            mel: (B, 1, 80, 16), -4 to 4.
            faces: (B, 6, S, S), 0 to 1: the target with its lower part masked, then the reference, both BGR.

        Returns:
            (B, 6, S, S), for `wav2lip.generator.model.render`.
        """
        sound = self.audio_encoder(mel).flatten(1)
        x = self.stem(F.pixel_unshuffle(2 * faces - 1, 2))
        levels = []
        for block in self.down:
            x = block(x, sound)
            levels.append(x)
        x = self.middle(levels.pop(), sound)
        flow = x
        for block in self.up:
            x = torch.cat((F.interpolate(x, scale_factor=2, mode="nearest"), levels.pop()), dim=1)
            x = block(x, sound)
            if len(levels) == 1:
                flow = F.interpolate(self.flow(x).float(), faces.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat((flow, self.paint(x).float()), dim=1)


AnyGenerator = Generator | UNetGenerator


def build_generator(config: GeneratorConfig) -> AnyGenerator:
    """A new network of the configured kind."""
    return UNetGenerator(config) if config.network == "unet" else Generator(config)
