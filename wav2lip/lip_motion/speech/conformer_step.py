"""One step of the speech encoder on a stream, as a network without state: the past goes in and comes out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wav2lip.lip_motion.speech.conformer import Attention, Conformer, ConformerBlock, Convolution
from wav2lip.lip_motion.speech.conformer_config import EDGE_ROWS, HEADS, KERNEL, TAPS, WIDTH


class ConformerStep(nn.Module):
    """New rows of a stream from samples and the past of every block.

    `P` rows of the past are in the attention window, `G` in that of the convolution (its left half), `R` are new.
    """

    def __init__(self, conformer: Conformer) -> None:
        super().__init__()
        self.conformer = conformer

    def forward(
        self, samples: Tensor, keys: Tensor, values: Tensor, gated: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            samples: (1, n), from `EDGE_ROWS` rows before the first new one.
            keys, values: (blocks, heads, P, 36).
            gated: (blocks, G, 144) inputs of the convolutions.
            mask: (R, P + R), 0 where a new row may attend, -inf elsewhere.

        Returns:
            (R, 288) features; keys and values (blocks, heads, P + R, 36) and inputs (blocks, G + R, 144), with the new
            rows after the past.
        """
        first = F.gelu(self.conformer.subsample(self.conformer.log_mel(samples)))
        outputs, pasts = [first[0].T[EDGE_ROWS:]], []
        for number, block in enumerate(self.conformer.blocks):
            assert isinstance(block, ConformerBlock)
            rows, *past = _block(block, outputs[-1], keys[number], values[number], gated[number], mask)
            outputs.append(rows)
            pasts.append(past)
        features = torch.cat([outputs[tap] for tap in TAPS], dim=-1)
        newer = [torch.stack(parts) for parts in zip(*pasts, strict=True)]
        return features, newer[0], newer[1], newer[2]


def _block(
    block: ConformerBlock, rows: Tensor, keys: Tensor, values: Tensor, gated: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, keys, values = _attend(block.attention, block.ffn1(rows), keys, values, mask)
    rows, gated = _convolve(block.convolution, rows, gated)
    return block.norm(block.ffn2(rows)), keys, values, gated


def _attend(
    attention: Attention, rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    three = attention.in_proj(attention.norm(rows)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
    query, key, value = three.permute(1, 2, 0, 3)
    keys, values = torch.cat([keys, key], 1), torch.cat([values, value], 1)
    seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return rows + attention.out_proj(seen.transpose(0, 1).flatten(1)), keys, values


def _convolve(convolution: Convolution, rows: Tensor, gated: Tensor) -> tuple[Tensor, Tensor]:
    gated = torch.cat([gated, F.glu(convolution.pointwise1(convolution.norm(rows)), -1)])
    depthwise = convolution.depthwise
    mixed = F.conv1d(F.pad(gated.T, (0, KERNEL // 2))[None], depthwise.weight, depthwise.bias, groups=WIDTH)
    return rows + convolution.pointwise2(F.silu(mixed[0].T)), gated
