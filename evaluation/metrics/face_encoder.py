"""Our face encoder: a small network whose features measure how generated faces differ from real ones.

It was trained to tell people apart. An inner layer, averaged over the square, gives the features of the Fréchet
distance; its last one gives embeddings that tell whose face it is. Both are our own: figures of other encoders (FID by
Inception, CSIM by ArcFace) are not comparable with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.metrics.face_crops import GEOMETRY, SIDE
from preprocessing.errors import UsageError
from syncnet.model import ChannelNorm, ResidualBlock
from training.checkpoint import Checkpoint

KIND = "face-encoder"
WEIGHTS = Path(__file__).parents[1] / "weights" / "encoder.safetensors"
BLOCK = 32  # faces that are looked at together


class FaceNetwork(nn.Module):
    """A convolution that quarters the side, then three residual blocks that halve it; 0.6 M parameters.

    Args:
        widths: channels at 1/4, 1/8, 1/16 and 1/32 of the picture's side.
        dimension: of the embedding.
        dropout: share of the pooled values that training leaves out.
    """

    def __init__(
        self, widths: tuple[int, ...] = (32, 64, 128, 160), dimension: int = 128, dropout: float = 0.2
    ) -> None:  # fmt: skip
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "dimension": dimension, "dropout": dropout}
        first, second, third, last = widths
        self.edges = nn.Conv2d(3, first, 7, 4, 3)
        self.parts = ResidualBlock(first, second, 2, "layer")
        self.parts_norm = ChannelNorm(second)
        self.person = nn.Sequential(
            ResidualBlock(second, third, 2, "layer"), ResidualBlock(third, last, 2, "layer"), ChannelNorm(last),
            nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * last, dimension),
        )  # fmt: skip
        self.register_buffer("whitening", torch.eye(first + second))
        self.whitening: Tensor
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # convolutions are faster so

    def forward(self, faces: Tensor) -> Tensor:
        """(B, 3, S, S) BGR, 0 to 1, to (B, dimension) unit embeddings."""
        return F.normalize(self.person(self.parts(self.edges(_centred(faces)))).float())

    def features(self, faces: Tensor) -> Tensor:
        """(B, 3, S, S) BGR, 0 to 1, to (B, widths[0] + widths[1]): two inner layers, rectified, averaged over the face.

        The first sees edges and grain, the second parts of the face. The whitening of `evaluation.metrics.train_face_encoder`
        makes them uncorrelated and of like size: what tells a blurred face from a sharp one is small beside what
        tells two people apart, and without it would not count.
        """
        edges = self.edges(_centred(faces))
        layers = F.relu(edges), F.silu(self.parts_norm(self.parts(edges)))
        return torch.cat([layer.mean(dim=(2, 3)) for layer in layers], dim=1).float() @ self.whitening


def _centred(faces: Tensor) -> Tensor:
    return (2 * faces - 1).contiguous(memory_format=torch.channels_last)


@dataclass
class FaceEncoder:
    """A trained encoder.

    Attributes:
        network: in eval mode.
        step: training steps done.
    """

    network: FaceNetwork
    step: int = 0

    @classmethod
    def load(cls, path: Path = WEIGHTS, device: str = "cpu") -> FaceEncoder:
        """Opens a checkpoint; WEIGHTS is the one that comes with the program.

        Raises:
            UsageError: it is no checkpoint of a face encoder, or one of another crop.
        """
        checkpoint = Checkpoint.load(path, KIND)
        expected = {"kind": GEOMETRY.kind, "size": GEOMETRY.size}
        if checkpoint.crop != expected:
            raise UsageError(f"{path} looks at crops {checkpoint.crop}, not {expected}")
        config = checkpoint.config
        network = FaceNetwork(tuple(config["widths"]), config["dimension"], config["dropout"])
        network.load_state_dict(checkpoint.weights)
        return cls(network.to(device).eval().requires_grad_(False), checkpoint.step)

    def save(self, path: Path) -> None:
        """Writes a checkpoint that `load` opens, in 16-bit floats."""
        crop = {"kind": GEOMETRY.kind, "size": GEOMETRY.size}
        weights = self.network.state_dict()
        Checkpoint(KIND, self.network.config, {}, crop, weights, self.step).save(path, half=True)

    def features(self, faces: np.ndarray) -> np.ndarray:
        """Points crops (N, SIDE, SIDE, 3) uint8 BGR to (N, D) float32 features for `evaluation.metrics.frechet`."""
        return self._look(self.network.features, faces)

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """Points crops (N, SIDE, SIDE, 3) uint8 BGR to (N, E) float32 unit embeddings of whose face it is."""
        return self._look(self.network, faces)

    @torch.inference_mode()
    def _look(self, layer: Callable[[Tensor], Tensor], faces: np.ndarray) -> np.ndarray:
        if faces.ndim != 4 or faces.shape[1:] != (SIDE, SIDE, 3) or not len(faces):
            raise UsageError(f"the encoder sees faces of the shape (N, {SIDE}, {SIDE}, 3), not {faces.shape}")
        device = next(self.network.parameters()).device
        blocks = []
        for first in range(0, len(faces), BLOCK):
            block = torch.from_numpy(np.ascontiguousarray(faces[first : first + BLOCK])).to(device).permute(0, 3, 1, 2)
            blocks.append(layer(block.float() / 255).cpu().numpy())
        return np.concatenate(blocks)


def identity(made: np.ndarray, real: np.ndarray, encoder: FaceEncoder) -> float:
    """How far a face is another person's: mean cosine distance of its frames' embeddings from the real video's mean.

    Args:
        made, real: points crops (N, SIDE, SIDE, 3) uint8 BGR, of one face; their lengths may differ.
        encoder: from `FaceEncoder.load`.

    Returns:
        0 to 2. A real video against itself is a little above 0, for its frames differ.
    """
    return distance(encoder.embed(made), encoder.embed(real))


def distance(made: np.ndarray, real: np.ndarray) -> float:
    """The same of unit embeddings (N, E) and (M, E)."""
    mean = real.astype(np.float64).mean(axis=0)
    return float(1 - (made @ (mean / max(np.linalg.norm(mean), 1e-9))).mean())
