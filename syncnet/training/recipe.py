"""Training recipe of a sync expert, and the network and optimizer it configures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.dataset.augmentation import Augmentation
from preprocessing.dataset.windows import CropRegion
from preprocessing.errors import UsageError, display_path, require_at_least
from preprocessing.media.audio import AudioConfig
from syncnet.data import AUGMENTATION, MOUTH, WINDOW, pair, sample
from syncnet.model import SmallSyncNet, SyncNet
from syncnet.sync_expert import SyncExpert
from training.checkpoint import Checkpoint

RELEASED = (512, 96)  # embedding dimension and input size of the released network, which uses the lower half
WARMUP_FRACTION = 0.15  # of all steps, in the one-cycle schedule
# Minimum warm-up, but at most half of all steps: with a high initial rate the network collapses to a single point and
# the gradient vanishes (the matching loss stays at 3.857).
MIN_WARMUP_STEPS = 400


@dataclass(frozen=True)
class SyncNetRecipe:
    """Network, loss and schedule of a sync expert's training.

    Attributes:
        network: "small" is ours; "released" has the published architecture and uses the region's lower half.
        region: Square of the crop that the network sees.
        norm: Norm of the small network: "layer" (over the channels) or "group".
        dimension: Size of the embeddings.
        dropout: Dropout rate before the last linear layer.
        loss: "matching" picks the right window among those of a clip; "bce" classifies pairs as in sync or not.
        batch_contrastive_weight: Weight of matching over all windows of a process's batch.
        clips_per_step: Clips per step, over all devices.
        windows_per_clip: Windows per clip; 2 for bce, of which it uses the audio of one and the video of one.
        window_stride: Frames between windows; for bce the minimum.
        min_speech_share: Positions with a smaller share of speech are redrawn; not used by bce.
        optimizer: "adamw" or "adam".
        lr: Peak learning rate.
        schedule: "one-cycle" warms up and decays to zero; "constant" keeps the rate.
        weight_decay: Weight decay.
        clip_gradient: Gradient norm limit; 0: no clipping.
        steps: Training steps.
        seed: Seed of the weights and of all random draws.
        augmentation: Augmentation of the windows.
    """

    network: Literal["small", "released"] = "small"
    region: CropRegion = MOUTH
    norm: Literal["layer", "group"] = "layer"
    dimension: int = 256
    dropout: float = 0.0
    loss: Literal["matching", "bce"] = "matching"
    batch_contrastive_weight: float = 0.25
    clips_per_step: int = 8
    windows_per_clip: int = 16
    window_stride: int = 2
    min_speech_share: float = 0.3
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = 6e-4
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    weight_decay: float = 0.05
    clip_gradient: float = 1.0
    steps: int = 5000
    seed: int = 0
    augmentation: Augmentation = AUGMENTATION

    def __post_init__(self) -> None:
        self._check_ranges()
        if self.network == "released" and (self.dimension, self.region.size, self.dropout) != (*RELEASED, 0):
            raise UsageError(
                f"the released network has dimension 512, region.size 96 and dropout 0, not {self.dimension}, "
                f"{self.region.size} and {self.dropout}"
            )
        if self.loss == "bce" and (self.windows_per_clip != 2 or self.window_stride < WINDOW):
            raise UsageError(
                f"the loss bce needs windows_per_clip 2 and window_stride {WINDOW} or more, so that the windows do not "
                f"overlap, not {self.windows_per_clip} and {self.window_stride}"
            )

    def _check_ranges(self) -> None:
        require_at_least(self, dimension=8, clips_per_step=1, windows_per_clip=2, window_stride=1, steps=1)
        require_at_least(self, batch_contrastive_weight=0, lr=0, weight_decay=0, clip_gradient=0, seed=0)
        require_at_least(self, dropout=0, min_speech_share=0)
        left, top, side, size = self.region.left, self.region.top, self.region.side, self.region.size
        for name in ("dropout", "min_speech_share"):
            if getattr(self, name) >= 1:
                raise UsageError(f"{name} must be below 1, not {getattr(self, name)}")
        if min(left, top) < 0 or side <= 0 or max(left, top) + side > 1 + 1e-6 or size < 32:
            raise UsageError(
                f"region must lie within the crop (0 to 1) and have a size of 32 or more, not {self.region}"
            )

    @property
    def span(self) -> int:
        """Minimum length of a clip in frames."""
        return (self.windows_per_clip - 1) * self.window_stride + WINDOW

    @property
    def draw(self) -> Callable[..., Any]:
        """The sampling function: from a clip and a random generator to the arrays that the loss needs."""
        if self.loss == "bce":
            return partial(pair, nearest=self.window_stride, augmentation=self.augmentation, region=self.region)
        options: dict[str, Any] = {
            "augmentation": self.augmentation,
            "region": self.region,
            "min_speech_share": self.min_speech_share,
        }
        return partial(sample, windows=self.windows_per_clip, step=self.window_stride, **options)

    def lr_at(self, step: int) -> float:
        """The learning rate of step number `step`, counted from 0."""
        warm = max(WARMUP_FRACTION, min(0.5, MIN_WARMUP_STEPS / self.steps))
        return self.lr * (one_cycle(step / self.steps, warm) if self.schedule == "one-cycle" else 1.0)


def one_cycle(done: float, warm: float = WARMUP_FRACTION) -> float:
    """Learning rate relative to its peak at progress `done` (0 to 1): cosine warm-up, then cosine decay to zero."""
    if done < warm:
        return 0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * done / warm))
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (done - warm) / (1 - warm)))


class LowerHalfSyncNet(nn.Module):
    """Adapts the released network to `SmallSyncNet`'s interface: it uses the lower half of the input square.

    Its embeddings are non-negative, and the bce loss does not train its scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.released = SyncNet()
        self.log_scale = nn.Parameter(torch.tensor(2.3))  # like SmallSyncNet's

    def forward(self, mel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, 80, 16) and (B, 15, 96, 96) to audio and face (B, 512)."""
        return self.embed_mel(mel), self.embed_faces(faces)

    def embed_mel(self, mel: Tensor) -> Tensor:
        """The audio half of `forward`: (B, 1, 80, 16) to (B, 512)."""
        return F.normalize(self.released.audio_encoder(mel).flatten(1).float())

    def embed_faces(self, faces: Tensor) -> Tensor:
        """The face half of `forward`: (B, 15, 96, 96) to (B, 512)."""
        half = faces[:, :, faces.shape[2] // 2 :]
        return F.normalize(self.released.face_encoder(half).flatten(1).float())


def build_network(recipe: SyncNetRecipe) -> SmallSyncNet | LowerHalfSyncNet:
    """Builds a network; torch's global generator initializes the weights."""
    if recipe.network == "released":
        network: SmallSyncNet | LowerHalfSyncNet = LowerHalfSyncNet()
    else:
        network = SmallSyncNet(recipe.dimension, recipe.region.size, recipe.norm, recipe.dropout)
    network.log_scale.requires_grad_(recipe.loss == "matching")  # distributed training waits for every gradient
    return network


def build_optimizer(recipe: SyncNetRecipe, network: nn.Module) -> torch.optim.Optimizer:
    """Builds the optimizer of all trainable parameters."""
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    trainable = [weight for weight in network.parameters() if weight.requires_grad]
    return kind(trainable, lr=recipe.lr, weight_decay=recipe.weight_decay)


def as_sync_expert(recipe: SyncNetRecipe, network: SmallSyncNet | LowerHalfSyncNet, step: int) -> SyncExpert:
    """Wraps a network as an expert that embeds clips."""
    return SyncExpert(cast(SmallSyncNet, network), recipe.region, step)


def save_network(recipe: SyncNetRecipe, network: SmallSyncNet | LowerHalfSyncNet, step: int, path: Path) -> None:
    """Writes a checkpoint: `SyncExpert.load` opens a small network's; a released one's has the released keys."""
    if isinstance(network, SmallSyncNet):
        return as_sync_expert(recipe, network, step).save(path)
    crop = {"kind": "points", "region": asdict(recipe.region)}
    Checkpoint("syncnet", {}, asdict(AudioConfig()), crop, network.released.state_dict(), step).save(path)


def load_network(recipe: SyncNetRecipe, network: SmallSyncNet | LowerHalfSyncNet, path: Path) -> None:
    """Loads the weights of an expert's checkpoint into `network`.

    Raises:
        UsageError: the checkpoint's network or region differs from the recipe's.
    """
    loaded = SyncExpert.load(path)
    same_network = isinstance(network, SmallSyncNet) and loaded.network.config == network.config
    if not same_network or loaded.region != recipe.region:
        raise UsageError(
            f"{display_path(path)} does not match the recipe's network: {loaded.network.config}, {loaded.region}"
        )
    network.load_state_dict(loaded.network.state_dict())
