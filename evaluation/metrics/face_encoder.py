"""Our face encoder: a small network whose features measure how generated faces differ from real ones.

It is trained to classify identities. Inner layers, averaged over the crop, give the features of the Fréchet distance;
the last layer gives identity embeddings. Both are our own and not comparable with metrics of other encoders (FID with
Inception, CSIM with ArcFace).
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
BATCH = 32  # faces per forward pass


class FaceNetwork(nn.Module):
    """A stride-4 convolution followed by three stride-2 residual blocks; 0.8 M parameters.

    Args:
        widths: channels at 1/4, 1/8, 1/16 and 1/32 of the input resolution.
        dimension: size of the embedding.
        dropout: dropout rate on the pooled values.
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
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # faster convolutions

    def forward(self, faces: Tensor) -> Tensor:
        """Map (B, 3, S, S) BGR in [0, 1] to (B, dimension) unit embeddings."""
        return F.normalize(self.person(self.parts(self.edges(_normalize(faces)))).float())

    def features(self, faces: Tensor) -> Tensor:
        """Map (B, 3, S, S) BGR in [0, 1] to (B, widths[0] + widths[1]): two inner layers, rectified and averaged.

        The first layer responds to edges and grain, the second to parts of the face. The whitening computed in
        `evaluation.metrics.train_face_encoder` decorrelates them and equalizes their variance: differences due to blur
        are small compared with differences between people and would vanish without it.
        """
        edges = self.edges(_normalize(faces))
        layers = F.relu(edges), F.silu(self.parts_norm(self.parts(edges)))
        return torch.cat([layer.mean(dim=(2, 3)) for layer in layers], dim=1).float() @ self.whitening


def _normalize(faces: Tensor) -> Tensor:
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
        """Load a checkpoint; WEIGHTS is the bundled one.

        Raises:
            UsageError: not a face encoder checkpoint, or trained on another crop.
        """
        checkpoint = Checkpoint.load(path, KIND)
        expected = {"kind": GEOMETRY.kind, "size": GEOMETRY.size}
        if checkpoint.crop != expected:
            raise UsageError(f"{path} was trained on crops {checkpoint.crop}, not {expected}")
        config = checkpoint.config
        network = FaceNetwork(tuple(config["widths"]), config["dimension"], config["dropout"])
        network.load_state_dict(checkpoint.weights)
        return cls(network.to(device).eval().requires_grad_(False), checkpoint.step)

    def save(self, path: Path) -> None:
        """Write an fp16 checkpoint that `load` can read."""
        crop = {"kind": GEOMETRY.kind, "size": GEOMETRY.size}
        weights = self.network.state_dict()
        Checkpoint(KIND, self.network.config, {}, crop, weights, self.step).save(path, half=True)

    def features(self, faces: np.ndarray) -> np.ndarray:
        """Map points crops (N, SIDE, SIDE, 3) uint8 BGR to (N, D) float32 features for `evaluation.metrics.frechet`."""
        return self._run(self.network.features, faces)

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """Map points crops (N, SIDE, SIDE, 3) uint8 BGR to (N, E) float32 unit identity embeddings."""
        return self._run(self.network, faces)

    @torch.inference_mode()
    def _run(self, layer: Callable[[Tensor], Tensor], faces: np.ndarray) -> np.ndarray:
        if faces.ndim != 4 or faces.shape[1:] != (SIDE, SIDE, 3) or not len(faces):
            raise UsageError(f"faces must have the shape (N, {SIDE}, {SIDE}, 3), not {faces.shape}")
        device = next(self.network.parameters()).device
        outputs = []
        for first in range(0, len(faces), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(faces[first : first + BATCH])).to(device).permute(0, 3, 1, 2)
            outputs.append(layer(batch.float() / 255).cpu().numpy())
        return np.concatenate(outputs)


def identity(made: np.ndarray, real: np.ndarray, encoder: FaceEncoder) -> float:
    """Identity drift: mean cosine distance of the generated frames' embeddings from the real video's mean embedding.

    Args:
        made, real: points crops (N, SIDE, SIDE, 3) uint8 BGR of one face; lengths may differ.
        encoder: see `FaceEncoder.load`.

    Returns:
        0 to 2. A real video against itself is slightly above 0, since its frames differ.
    """
    return identity_distance(encoder.embed(made), encoder.embed(real))


def identity_distance(made: np.ndarray, real: np.ndarray) -> float:
    """`identity` from unit embeddings (N, E) and (M, E)."""
    mean = real.astype(np.float64).mean(axis=0)
    return float(1 - (made @ (mean / max(np.linalg.norm(mean), 1e-9))).mean())
