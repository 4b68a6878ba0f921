"""SyncNet architectures: two towers that embed mouth crops and audio into one space."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IntPair = int | tuple[int, int]


class ConvBlock(nn.Module):
    """Convolution, batch norm, optional residual connection, ReLU: the building block of the released networks.

    The attribute name `conv_block` is part of the released state dicts' keys.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: IntPair, stride: IntPair, padding: IntPair,
        residual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H', W')."""
        y = self.conv_block(x)
        return F.relu(y + x if self.residual else y)


def audio_tower(widths: Sequence[int], out_channels: int, extra: bool = False) -> nn.Sequential:
    """The released audio encoder: mel (B, 1, 80, 16) to (B, out_channels, 1, 1).

    `widths` are the channels of its four resolutions ((32, 64, 128, 256) as released); `extra` adds the
    residual block that the expert's encoder has and the generator's lacks.
    """
    w0, w1, w2, w3 = widths
    blocks = [ConvBlock(1, w0, 3, 1, 1), ConvBlock(w0, w0, 3, 1, 1, True), ConvBlock(w0, w0, 3, 1, 1, True)]
    blocks += [ConvBlock(w0, w1, 3, (3, 1), 1), ConvBlock(w1, w1, 3, 1, 1, True), ConvBlock(w1, w1, 3, 1, 1, True)]
    blocks += [ConvBlock(w1, w2, 3, 3, 1), ConvBlock(w2, w2, 3, 1, 1, True), ConvBlock(w2, w2, 3, 1, 1, True)]
    blocks += [ConvBlock(w2, w3, 3, (3, 2), 1)] + [ConvBlock(w3, w3, 3, 1, 1, True) for _ in range(2 if extra else 1)]
    blocks += [ConvBlock(w3, out_channels, 3, 1, 0), ConvBlock(out_channels, out_channels, 1, 1, 0)]
    return nn.Sequential(*blocks)


class SyncNet(nn.Module):
    """The sync expert of "A Lip Sync Expert Is All You Need" (2020), section 3.1, with the released state-dict keys."""

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder = nn.Sequential(
            ConvBlock(15, 32, 7, 1, 3),
            ConvBlock(32, 64, 5, (1, 2), 1), ConvBlock(64, 64, 3, 1, 1, True), ConvBlock(64, 64, 3, 1, 1, True),
            ConvBlock(64, 128, 3, 2, 1), *(ConvBlock(128, 128, 3, 1, 1, True) for _ in range(3)),
            ConvBlock(128, 256, 3, 2, 1), ConvBlock(256, 256, 3, 1, 1, True), ConvBlock(256, 256, 3, 1, 1, True),
            ConvBlock(256, 512, 3, 2, 1), ConvBlock(512, 512, 3, 1, 1, True), ConvBlock(512, 512, 3, 1, 1, True),
            ConvBlock(512, 512, 3, 2, 1), ConvBlock(512, 512, 3, 1, 0), ConvBlock(512, 512, 1, 1, 0),
        )  # fmt: skip
        self.audio_encoder = audio_tower((32, 64, 128, 256), 512, extra=True)

    def forward(self, mel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds one 0.2 s window.

        Args:
            mel: (B, 1, 80, 16), -4 to 4.
            faces: (B, 15, 48, 96), lower halves of five BGR frames stacked on channels, 0 to 1.

        Returns:
            audio (B, 512) and face (B, 512) embeddings, L2-normalized, non-negative (they end in a ReLU).
        """
        audio = F.normalize(self.audio_encoder(mel).flatten(1))
        face = F.normalize(self.face_encoder(faces).flatten(1))
        return audio, face


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel (ConvNeXt, 2022); trains 1.5 times as fast as group norm here."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if torch.jit.is_tracing():  # OpenVINO runs our generator in 36 ms instead of 56 without the permutes
            x = x - x.mean(1, keepdim=True)
            x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels) if kind == "group" else ChannelNorm(channels)


class ResidualBlock(nn.Module):
    """Pre-activation residual block with SiLU; the shortcut downsamples by average pooling."""

    def __init__(self, in_channels: int, out_channels: int, stride: IntPair, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(norm, in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, stride, 1),
            _norm(norm, out_channels), nn.SiLU(), nn.Conv2d(out_channels, out_channels, 3, 1, 1),
        )  # fmt: skip
        pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        self.skip = nn.Sequential(pool, nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        return self.skip(x) + self.body(x)


def _tower(
    in_channels: int, widths: Sequence[int], strides: Sequence[IntPair], dimension: int, norm: str, dropout: float
) -> nn.Sequential:  # fmt: skip
    """A stem convolution, one residual block per further width and a linear layer; one stride per width."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 5, strides[0], 2)]
    for (inputs, outputs), stride in zip(pairwise(widths), strides[1:], strict=True):
        layers.append(ResidualBlock(inputs, outputs, stride, norm))
    head = [_norm(norm, widths[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, *head, *drop, nn.Linear(4 * widths[-1], dimension))


def small_audio_tower(dimension: int, norm: str, dropout: float = 0.0) -> nn.Sequential:
    """Audio tower of `SmallSyncNet`: mel / 4 (B, 1, 80, 16), -1 to 1, to (B, dimension)."""
    return _tower(1, (32, 64, 96, 144), ((2, 1), (2, 1), (2, 2), (2, 2)), dimension, norm, dropout)


class SmallSyncNet(nn.Module):
    """Our sync expert: signed embeddings and a learnable scale, so that the loss leaves ln 2 immediately.

    The released architecture ends in a ReLU: its cosine is never negative, and the published loss is flat at
    initialization. Batch norm is avoided because it leaks information between the windows of a batch.
    """

    def __init__(
        self, dimension: int = 256, mouth_size: int = 64, norm: str = "layer", dropout: float = 0.0
    ) -> None:  # fmt: skip
        super().__init__()
        self.config: dict[str, Any] = {
            "dimension": dimension, "mouth_size": mouth_size, "norm": norm, "dropout": dropout
        }  # fmt: skip
        widths, strides = (32, 64, 96, 144, 192), (2, 2, 2, 2, 1)
        self.face_encoder = _tower(15, widths, strides, dimension, norm, dropout)
        self.audio_encoder = small_audio_tower(dimension, norm, dropout)
        self.log_scale = nn.Parameter(torch.tensor(2.3))  # initial factor on the cosine: exp(2.3), about 10
        for tower in (self.face_encoder, self.audio_encoder):
            tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # faster convolutions

    def forward(self, mel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds one 0.2 s window.

        Args:
            mel: (B, 1, 80, 16), -4 to 4.
            faces: (B, 15, mouth_size, mouth_size), mouth crops of five BGR frames stacked on channels, 0 to 1.

        Returns:
            audio (B, dimension) and face (B, dimension) embeddings, L2-normalized, signed.
        """
        return self.embed_mel(mel), self.embed_faces(faces)

    def embed_mel(self, mel: Tensor) -> Tensor:
        """The audio half of `forward`: (B, 1, 80, 16) to (B, dimension)."""
        return F.normalize(self.audio_encoder((mel / 4).contiguous(memory_format=torch.channels_last)).float())

    def embed_faces(self, faces: Tensor) -> Tensor:
        """The face half of `forward`: (B, 15, mouth_size, mouth_size) to (B, dimension)."""
        return F.normalize(self.face_encoder((faces * 2 - 1).contiguous(memory_format=torch.channels_last)).float())
