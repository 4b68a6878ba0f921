"""The speech encoder for speech that is still arriving: each step computes only the rows that new samples change.

The attention of the recognizer reaches two seconds ahead. A stream cannot wait for that, so the newest `REVISED` rows
are computed again with every step, and older ones are frozen: their keys, values and convolution inputs are kept, and
nothing before them is computed twice. The end of what is known is continued by its mirror image, as at the end of a
recording.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wav2lip.lip_motion.speech.conformer import HEADS, KERNEL, TAPS, WIDTH, Attention, ConformerBlock, Convolution
from wav2lip.lip_motion.speech.hama import HOP, HamaEncoder
from wav2lip.lip_motion.speech.speech_encoder import Samples, SpeechEncoder, row_count

REVISED = 20  # newest rows, computed again with every step: 0.4 s
MIRRORED = 16  # rows of mirror image after the last sample: 0.32 s
LEAD_ROWS = 25  # rows of silence before the first sample: 0.5 s
EDGE = 2  # rows that the beginning of a piece of sound spoils
KEPT = 48  # frozen rows whose features are kept


@dataclass
class _BlockState:
    """Past of one block: keys and values (4, R, 36) of the attention window, (R, 144) inputs of the convolution."""

    keys: Tensor = field(default_factory=lambda: torch.zeros(HEADS, 0, WIDTH // HEADS))
    values: Tensor = field(default_factory=lambda: torch.zeros(HEADS, 0, WIDTH // HEADS))
    gated: Tensor = field(default_factory=lambda: torch.zeros(0, WIDTH))


class EncoderStream(Protocol):
    """Encodes one utterance in steps; row j is at j / 50 s, rows below 0 are the silence before it."""

    def step(self, samples: np.ndarray) -> tuple[int, np.ndarray]:
        """Appends samples and encodes.

        Args:
            samples: (n,) float32, 16 kHz; the next ones.

        Returns:
            The number of the first row, and (R, D) float32 rows up to `MIRRORED` beyond the last sample.
        """
        ...


def open_stream(encoder: SpeechEncoder) -> EncoderStream:
    """A stream for one utterance; streams share the encoder's weights."""
    return HamaStream(encoder) if isinstance(encoder, HamaEncoder) else WindowStream(encoder)


class WindowStream:
    """Encodes the last `KEPT` rows anew with every step; for encoders without a cheaper way."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self._encoder = encoder
        self._samples = np.zeros(2 * KEPT * HOP, np.float32)
        self._first = -KEPT  # row of the first one returned

    def step(self, samples: np.ndarray) -> tuple[int, np.ndarray]:
        """See `EncoderStream.step`."""
        whole = np.concatenate([self._samples, samples])
        surplus = max(len(whole) // HOP - 2 * KEPT, 0)
        self._samples, self._first = whole[surplus * HOP :], self._first + surplus
        piece: Samples = mirrored(self._samples)
        return self._first, self._encoder.rows(piece, KEPT, row_count(len(piece)))


def mirrored(samples: np.ndarray) -> np.ndarray:
    """(n,) samples, continued by up to `MIRRORED` rows of their mirror image."""
    count = min(MIRRORED * HOP, len(samples) - 1)
    return np.concatenate([samples, samples[-2 : -2 - count : -1]])


class HamaStream:
    """The stream of a `HamaEncoder`."""

    def __init__(self, encoder: HamaEncoder) -> None:
        self._conformer = encoder.conformer
        self._samples = np.zeros(LEAD_ROWS * HOP, np.float32)
        self._origin = 0  # row of the first sample kept, counted from the beginning of the lead
        self._frozen = 0
        self._states = [_BlockState() for _ in self._conformer.blocks]
        self._features = np.zeros((0, encoder.dimension), np.float32)

    def step(self, samples: np.ndarray) -> tuple[int, np.ndarray]:
        """See `EncoderStream.step`."""
        self._samples = np.concatenate([self._samples, samples])
        known = self._origin + row_count(len(self._samples))
        with torch.inference_mode():
            rows = self._first_rows()
            freeze = max(0, known - REVISED - self._frozen)
            features = self._encode(rows, freeze)
        every = np.concatenate([self._features, features.numpy()])
        first = self._frozen - len(self._features)
        self._features = every[: len(self._features) + freeze][-KEPT:]
        self._frozen += freeze
        self._forget()
        return first - LEAD_ROWS, every

    def _first_rows(self) -> Tensor:
        """(R, 144) inputs of the first block, from the first row that is not frozen."""
        piece = torch.from_numpy(mirrored(self._samples))[None]
        rows = F.gelu(self._conformer.subsample(self._conformer.log_mel(piece)))
        return rows[0].T[self._frozen - self._origin :]

    def _encode(self, rows: Tensor, freeze: int) -> Tensor:
        outputs = [rows]
        reach = self._conformer.reach
        for block, state in zip(self._conformer.blocks, self._states, strict=True):
            assert isinstance(block, ConformerBlock)
            outputs.append(_block(block, outputs[-1], state, freeze, reach))
        return torch.cat([outputs[tap] for tap in TAPS], dim=-1)

    def _forget(self) -> None:
        """Drops samples that no later step needs."""
        first = max(self._frozen - EDGE, 0)
        if first > self._origin:
            self._samples = self._samples[(first - self._origin) * HOP :]
            self._origin = first


def _block(block: ConformerBlock, rows: Tensor, state: _BlockState, freeze: int, reach: int | None) -> Tensor:
    """A block on new rows (R, 144) after its past; the first `freeze` of them join the past."""
    rows = _attend(block.attention, block.ffn1(rows), state, freeze, reach)
    return block.norm(block.ffn2(_convolve(block.convolution, rows, state, freeze)))


def _attend(attention: Attention, rows: Tensor, state: _BlockState, freeze: int, reach: int | None) -> Tensor:
    three = attention.in_proj(attention.norm(rows)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
    query, key, value = three.permute(1, 2, 0, 3)
    past = state.keys.shape[1]
    keys, values = torch.cat([state.keys, key], 1), torch.cat([state.values, value], 1)
    mask = None
    if reach is not None:
        position = torch.arange(keys.shape[1])
        mask = (position[past:, None] - position[None]).abs() <= reach
    seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    first = 0 if reach is None else max(past + freeze - reach, 0)
    state.keys, state.values = keys[:, first : past + freeze], values[:, first : past + freeze]
    return rows + attention.out_proj(seen.transpose(0, 1).flatten(1))


def _convolve(convolution: Convolution, rows: Tensor, state: _BlockState, freeze: int) -> Tensor:
    half, past = KERNEL // 2, len(state.gated)
    gated = torch.cat([state.gated, F.glu(convolution.pointwise1(convolution.norm(rows)), -1)])
    padded = F.pad(gated.T, (half - past, half))
    depthwise = convolution.depthwise
    mixed = F.conv1d(padded, depthwise.weight, depthwise.bias, groups=WIDTH).T
    state.gated = gated[max(past + freeze - half, 0) : past + freeze]
    return rows + convolution.pointwise2(F.silu(mixed))
