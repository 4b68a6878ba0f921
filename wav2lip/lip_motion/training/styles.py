"""A style for each person in training: what the network should not learn as a rule of speech.

Two people say the same sound with different mouths. A vector per person takes up that difference, and is left out for
some windows, so that the network without it learns what people have in common (an embedding of the subject, as in
Cudeiro et al., "Capture, learning, and synthesis of 3D speaking styles", CVPR 2019, with dropout for unknown people).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wav2lip.lip_motion.model import LipMotionNet

SPREAD = 0.02  # standard deviation of the initial styles


class StyledMotion(nn.Module):
    """The network in training, with a style for each person."""

    def __init__(self, network: LipMotionNet, people: int, dropout: float) -> None:
        super().__init__()
        self.network, self.dropout = network, dropout
        self.styles = nn.Embedding(people, network.config.width)
        nn.init.normal_(self.styles.weight, 0, SPREAD)

    def forward(self, rows: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
        """See `LipMotionNet.forward`; (B,) indices of the people."""
        known = torch.rand(len(person), 1, device=rows.device) >= self.dropout
        return self.network(rows, self.styles(person) * known)
