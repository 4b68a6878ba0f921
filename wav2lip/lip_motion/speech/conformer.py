"""A Conformer encoder for phonemes (Gulati et al., 2020; arXiv 2005.08100) with windowed attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wav2lip.lip_motion.speech.conformer_config import (
    BLOCKS,
    FLOOR,
    FRAME,
    HEADS,
    HOP,
    INNER,
    KERNEL,
    PHONEMES,
    REACH,
    TAPS,
    WIDTH,
    context_rows,
)


class FeedForward(nn.Module):
    """Feed-forward module of two layers with half-step residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, T, 144) → the same."""
        return rows + 0.5 * self.fc2(F.silu(self.fc1(self.norm(rows))))


class Attention(nn.Module):
    """Self-attention with four heads, without positional encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.in_proj, self.out_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, 144) and (T, T) of what may be seen → (B, T, 144)."""
        three = self.in_proj(self.norm(rows)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        query, key, value = three.permute(2, 0, 3, 1, 4).float()
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return rows + self.out_proj(seen.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """Gated depthwise convolution over 0.6 s."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.pointwise1 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.depthwise = nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2, groups=WIDTH)
        self.pointwise2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, T, 144) → the same."""
        gated = F.glu(self.pointwise1(self.norm(rows)), -1)
        return rows + self.pointwise2(F.silu(self._mixed(gated)))

    def _mixed(self, rows: Tensor) -> Tensor:
        """The depthwise part in 32 bits: its bf16 backward pass is several times slower on CPUs."""
        with torch.autocast(rows.device.type, enabled=False):
            return self.depthwise(rows.float().transpose(1, 2)).transpose(1, 2)


class ConformerBlock(nn.Module):
    """Feed-forward, attention, convolution, feed-forward, norm."""

    def __init__(self) -> None:
        super().__init__()
        self.ffn1, self.attention, self.convolution = FeedForward(), Attention(), Convolution()
        self.ffn2, self.norm = FeedForward(), nn.LayerNorm(WIDTH)

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, 144) and (T, T) of what may be seen → (B, T, 144)."""
        return self.norm(self.ffn2(self.convolution(self.attention(self.ffn1(rows), mask))))


class Conformer(nn.Module):
    """Samples → log-mel → 50 rows per second → four blocks.

    Attributes:
        reach: attention window in rows to either side; None for unlimited attention.
        floor: minimum power of a mel band.
    """

    kernel: Tensor
    mel_basis: Tensor

    def __init__(self, reach: int | None = REACH, floor: float = FLOOR) -> None:
        super().__init__()
        self.reach, self.floor = reach, floor
        self.register_buffer("kernel", torch.zeros(2 * (FRAME // 2 + 1), 1, FRAME))  # a windowed Fourier transform
        self.register_buffer("mel_basis", torch.zeros(FRAME // 2 + 1, 80))
        self.subsample = nn.Conv1d(80, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([ConformerBlock() for _ in range(BLOCKS)])
        self.head = nn.Linear(WIDTH, PHONEMES)

    @property
    def context(self) -> int:
        """Receptive field of the last block in rows to either side, rounded up."""
        return context_rows(self.reach)

    def log_mel(self, samples: Tensor) -> Tensor:
        """(B, n) → (B, 80, 1 + n // 160)."""
        framed = F.pad(samples[:, None], (FRAME // 2, FRAME // 2), mode="reflect")
        real, imaginary = F.conv1d(framed, self.kernel, stride=HOP).chunk(2, dim=1)
        power = torch.einsum("bft,fm->bmt", real.square() + imaginary.square(), self.mel_basis)
        return power.clamp_min(self.floor).log()

    def outputs(self, samples: Tensor) -> list[Tensor]:
        """(B, n), n >= 201 → the input of the first block and the output of each, (B, 1 + n // 320, 144)."""
        outputs = [F.gelu(self.subsample(self.log_mel(samples))).transpose(1, 2)]
        mask = self.mask(outputs[0].shape[1], samples.device)
        for block in self.blocks:
            outputs.append(block(outputs[-1], mask))
        return outputs

    def mask(self, rows: int, device: torch.device) -> Tensor | None:
        """(T, T) bool attention mask; None if every row may attend to all rows."""
        if self.reach is None or rows <= self.reach + 1:
            return None
        position = torch.arange(rows, device=device)
        return (position[:, None] - position[None, :]).abs() <= self.reach

    def forward(self, samples: Tensor) -> Tensor:
        """(B, n) → (B, 1 + n // 320, 288): the features."""
        outputs = self.outputs(samples)
        return torch.cat([outputs[tap] for tap in TAPS], dim=-1)

    def log_probabilities(self, samples: Tensor) -> Tensor:
        """(B, n) → (B, 1 + n // 320, 191) log-probabilities of the phonemes, word boundary and blank."""
        return F.log_softmax(self.head(self.outputs(samples)[-1]), dim=-1)
