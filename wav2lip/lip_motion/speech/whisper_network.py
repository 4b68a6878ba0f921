"""Whisper's speech encoder (Radford et al., 2022; arXiv 2212.04356) with windowed attention.

A row depends on a bounded range of sound and on its number modulo `PERIOD`, so that recordings and streams of any
length can be encoded in pieces.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wav2lip.lip_motion.speech.whisper_config import (
    BLOCKS,
    FLOOR,
    HEADS,
    INNER,
    MEL_HOP,
    MEL_WINDOW,
    MELS,
    PERIOD,
    REACH,
    TAPS,
    WIDTH,
)

LONGEST_WAVE = 10000.0  # of the positions' sines, in rows, over 2 pi


class EncoderBlock(nn.Module):
    """A transformer block with the norms before attention and feed-forward layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.attention_in = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step on `R` rows with `P` earlier ones.

        Args:
            rows: (R, 384).
            keys, values: (heads, P, 64) of the earlier rows.
            mask: (R, P + R), added to the scores.

        Returns:
            (R, 384), and keys and values of all rows, (heads, P + R, 64).
        """
        three = self.attention_in(self.attention_norm(rows)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        query, key, value = three.permute(1, 2, 0, 3)
        keys, values = torch.cat([keys, key], 1), torch.cat([values, value], 1)
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        rows = rows + self.attention_out(seen.transpose(0, 1).flatten(1))
        return rows + self.fc2(F.gelu(self.fc1(self.norm(rows)))), keys, values


class WhisperEncoder(nn.Module):
    """Samples → log-mel → 50 rows per second → four blocks.

    Attributes:
        reach: attention window in rows to either side; None for unlimited attention.
        period: rows after which positions repeat.
        floor: minimum power of a mel band; None for 80 dB below the loudest, as in the original.
    """

    kernel: Tensor
    mel_basis: Tensor
    wavelengths: Tensor

    def __init__(self, reach: int | None = REACH, period: int = PERIOD, floor: float | None = FLOOR) -> None:
        super().__init__()
        self.reach, self.period, self.floor = reach, period, floor
        self.register_buffer("mel_basis", torch.zeros(MELS, MEL_WINDOW // 2 + 1))
        self.register_buffer("kernel", _windowed_fourier(), persistent=False)
        half = torch.arange(WIDTH // 2)
        waves = torch.exp(-math.log(LONGEST_WAVE) / (WIDTH // 2 - 1) * half)
        self.register_buffer("wavelengths", waves, persistent=False)
        self.conv1, self.conv2 = nn.Conv1d(MELS, WIDTH, 3, padding=1), nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([EncoderBlock() for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)

    def log_mel(self, samples: Tensor) -> Tensor:
        """(1, n) → (1, 80, 1 + n // 160), scaled as in the original."""
        framed = F.pad(samples[:, None], (MEL_WINDOW // 2, MEL_WINDOW // 2), mode="reflect")
        real, imaginary = F.conv1d(framed, self.kernel, stride=MEL_HOP).chunk(2, dim=1)
        power = torch.einsum("bft,mf->bmt", real.square() + imaginary.square(), self.mel_basis)
        logs = power.clamp_min(self.floor or 1e-10).log10()
        if self.floor is None:
            logs = torch.maximum(logs, logs.amax() - 8)
        return (logs + 4) / 4

    def embed(self, samples: Tensor, numbers: Tensor) -> Tensor:
        """The input of the first block: (1, n), n >= 201, and (R,) numbers of its rows → (R, 384), R = 1 + n // 320."""
        rows = F.gelu(self.conv2(F.gelu(self.conv1(self.log_mel(samples)))))[0].T
        angles = (numbers % self.period)[:, None] * self.wavelengths
        return rows + torch.cat([angles.sin(), angles.cos()], 1)

    def outputs(self, samples: Tensor, numbers: Tensor) -> list[Tensor]:
        """The input of the first block and the output of each, (R, 384); that of the last is normalized."""
        outputs = [self.embed(samples, numbers)]
        none = outputs[0].new_zeros(HEADS, 0, WIDTH // HEADS)
        for block in self.blocks:
            outputs.append(block(outputs[-1], none, none, self.mask(numbers))[0])
        return [*outputs[:-1], self.norm(outputs[-1])]

    def mask(self, numbers: Tensor) -> Tensor:
        """(R, R), 0 where a row may attend to another, -inf elsewhere."""
        far = (numbers[:, None] - numbers).abs()
        reach = far.new_tensor(math.inf if self.reach is None else self.reach)
        return torch.where(far <= reach, 0.0, -math.inf)

    def forward(self, samples: Tensor, numbers: Tensor) -> Tensor:
        """(1, n) and (R,) numbers of the rows → (1, R, 1536): the features."""
        outputs = self.outputs(samples, numbers)
        return torch.cat([outputs[tap] for tap in TAPS], dim=-1)[None]


class WhisperStep(nn.Module):
    """New rows of a stream from samples and the past of every block, without state."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, samples: Tensor, numbers: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            samples: (1, n), from `EDGE_ROWS` rows before the first of `R` new ones.
            numbers: (EDGE_ROWS + R,) numbers of their rows.
            keys, values: (blocks, heads, P, 64) of the past.
            mask: (R, P + R), 0 where a new row may attend, -inf elsewhere.

        Returns:
            (R, 1536) features; keys and values (blocks, heads, P + R, 64), with the new rows after the past.
        """
        skipped = len(numbers) - len(mask)
        outputs, pasts = [self.encoder.embed(samples, numbers)[skipped:]], []
        for number, block in enumerate(self.encoder.blocks):
            rows, *past = block(outputs[-1], keys[number], values[number], mask)
            outputs.append(rows)
            pasts.append(past)
        outputs[-1] = self.encoder.norm(outputs[-1])
        newer = [torch.stack(parts) for parts in zip(*pasts, strict=True)]
        return torch.cat([outputs[tap] for tap in TAPS], dim=-1), newer[0], newer[1]


def _windowed_fourier() -> Tensor:
    """(2 * 201, 1, 400): real and imaginary parts of a Fourier transform with a Hann window."""
    time = torch.arange(MEL_WINDOW, dtype=torch.float64)
    frequency = torch.arange(MEL_WINDOW // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * (frequency[:, None] * time % MEL_WINDOW) / MEL_WINDOW
    window = torch.hann_window(MEL_WINDOW, dtype=torch.float64)
    return torch.cat([angle.cos() * window, angle.sin() * window]).float()[:, None]
