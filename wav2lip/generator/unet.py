"""Our generator: a small audio-conditioned U-Net that warps the reference and paints on top of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syncnet.model import ChannelNorm
from wav2lip.generator.model import FrozenSyncNetEncoder, Generator, GeneratorConfig, init_as_copy

AUDIO_DIM = 256  # size of the audio embedding


class FiLMResBlock(nn.Module):
    """A pre-activation residual block with FiLM conditioning on audio.

    Sources: pre-activation residual blocks, arXiv 1603.05027; FiLM, arXiv 1709.07871, initialized to the identity.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, audio: int = 0) -> None:
        """`audio`: size of the audio embedding; 0 for a block without conditioning."""
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(in_channels), ChannelNorm(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        project = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.skip = nn.Sequential(pool, project)
        self.film = nn.Linear(audio, 2 * out_channels) if audio else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, audio: Tensor | None = None) -> Tensor:
        """(B, in, H, W) and, if conditioned, (B, audio) to (B, out, H / stride, W / stride)."""
        y = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.film is not None:
            assert audio is not None
            scale, shift = self.film(audio)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(y))


class UNetGenerator(nn.Module):
    """Predicts the six fields of a warping generator (see `wav2lip.generator.model.render`).

    Pixel unshuffle to half size (arXiv 1609.05158), three downsampling stages and as many upsampling ones. The flow is
    predicted at a quarter of the size, which makes it smooth by construction; color and mixing weight at full size.
    At 128 pixels and width 32: 3.4 M parameters, 0.8 GMAC.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        w0, w1, w2, w3 = (config.width * k for k in (1, 2, 4, 6))
        self.audio_encoder = FrozenSyncNetEncoder(AUDIO_DIM, config.audio_encoder_norm, AUDIO_DIM, nn.SiLU)
        self.stem = nn.Conv2d(6 * 4, w0, 3, 1, 1)
        self.down = nn.ModuleList(
            [FiLMResBlock(w0, w0), FiLMResBlock(w0, w1, 2), FiLMResBlock(w1, w2, 2), FiLMResBlock(w2, w3, 2, AUDIO_DIM)]
        )
        self.middle = FiLMResBlock(w3, w3, 1, AUDIO_DIM)
        self.up = nn.ModuleList(
            [
                FiLMResBlock(w3 + w2, w2, 1, AUDIO_DIM),
                FiLMResBlock(w2 + w1, w1, 1, AUDIO_DIM),
                FiLMResBlock(w1 + w0, w0, 1, AUDIO_DIM),
            ]
        )
        self.flow = nn.Sequential(ChannelNorm(w1), nn.SiLU(), nn.Conv2d(w1, 2, 3, 1, 1))
        self.paint = nn.Sequential(ChannelNorm(w0), nn.SiLU(), nn.Conv2d(w0, 4 * 4, 3, 1, 1), nn.PixelShuffle(2))
        flow, paint = self.flow[2], self.paint[2]
        assert isinstance(flow, nn.Conv2d)
        assert isinstance(paint, nn.Conv2d)
        init_as_copy(flow, paint)

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Predicts the fields.

        Args:
            mel: (B, 1, 80, 16), -4 to 4.
            faces: (B, 6, S, S), 0 to 1: the target with its lower part masked, then the reference, both BGR.

        Returns:
            (B, 6, S, S), for `wav2lip.generator.model.render`.
        """
        audio = self.audio_encoder(mel).flatten(1)
        x = self.stem(F.pixel_unshuffle(2 * faces - 1, 2))
        levels = []
        for block in self.down:
            x = block(x, audio)
            levels.append(x)
        x = self.middle(levels.pop(), audio)
        flow = x
        for block in self.up:
            x = torch.cat((F.interpolate(x, scale_factor=2, mode="nearest"), levels.pop()), dim=1)
            x = block(x, audio)
            if len(levels) == 1:
                flow = F.interpolate(self.flow(x).float(), faces.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat((flow, self.paint(x).float()), dim=1)


AnyGenerator = Generator | UNetGenerator


def build_generator(config: GeneratorConfig) -> AnyGenerator:
    """Builds a new network of the configured kind."""
    return UNetGenerator(config) if config.network == "unet" else Generator(config)
