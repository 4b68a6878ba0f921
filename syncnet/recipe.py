"""How an expert is trained: the recipe, and the network that it asks for."""

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
from preprocessing.errors import UsageError, display_path
from preprocessing.media.audio import AudioConfig
from syncnet.data import AUGMENTATION, MOUTH, WINDOW, pair, sample
from syncnet.model import SmallSyncNet, SyncNet
from syncnet.sync_expert import SyncExpert
from training.checkpoint import Checkpoint

RELEASED = (512, 96)  # dimension of the released network, and width of the square whose lower half it sees
WARM = 0.15  # share of the steps in which one-cycle climbs
# Steps that it climbs at least, as far as half of all steps allow: a network that learns fast from the start maps
# everything to one point, from which no gradient leads away (the matching loss then stays at 3.857).
LEAST_WARM = 400


@dataclass(frozen=True)
class SyncNetRecipe:
    """What is trained, and how.

    Attributes:
        network: "small" is ours; "released" has the published shape and keys and sees the region's lower half.
        region: Square of the crop that it looks at.
        norm: "layer" norm over the channels, or "group" norm; of the small network.
        dimension: Of the embeddings.
        dropout: Share of the last features that a step goes without.
        loss: "matching" tells the windows of a clip apart; "bce" asks whether picture and sound belong together.
        batch_contrastive_weight: Weight of matching over all windows of a process' batch beside that within a clip.
        clips_per_step: Drawn by all devices together.
        windows_per_clip: Drawn from each; for bce two, of which it takes one picture and one sound.
        window_stride: Frames from one window to the next; for bce the least.
        min_speech_share: Share of speech below which another place of the clip is drawn; not for bce.
        optimizer: "adamw" or "adam".
        lr: Learning rate at its highest.
        schedule: "one-cycle" climbs and falls to zero within the steps; "constant".
        weight_decay: Share of the rate by which weights shrink in a step.
        clip_gradient: Norm above which the gradient is scaled down; 0 leaves it.
        steps: To train.
        seed: Of the weights and of everything that is drawn.
        augmentation: How windows are disguised.
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
                f"the loss bce needs windows_per_clip 2 and a distance of {WINDOW} frames or more, so that they share "
                f"none, not {self.windows_per_clip} and {self.window_stride}"
            )

    def _check_ranges(self) -> None:
        for name, least in {
            "dimension": 8,
            "clips_per_step": 1,
            "windows_per_clip": 2,
            "window_stride": 1,
            "steps": 1,
        }.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name in (
            "batch_contrastive_weight",
            "lr",
            "weight_decay",
            "clip_gradient",
            "seed",
            "dropout",
            "min_speech_share",
        ):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}")
        left, top, side, size = self.region.left, self.region.top, self.region.side, self.region.size
        for name in ("dropout", "min_speech_share"):
            if getattr(self, name) >= 1:
                raise UsageError(f"{name} is a share below 1, not {getattr(self, name)}")
        if min(left, top) < 0 or side <= 0 or max(left, top) + side > 1 + 1e-6 or size < 32:
            raise UsageError(f"region must lie within the crop, 0 to 1, and be 32 pixels or more, not {self.region}")

    @property
    def span(self) -> int:
        """Frames of the shortest clip that can be drawn from."""
        return (self.windows_per_clip - 1) * self.window_stride + WINDOW

    @property
    def draw(self) -> Callable[..., Any]:
        """From a clip and a generator of random numbers: what the loss takes of a clip."""
        if self.loss == "bce":
            return partial(pair, nearest=self.window_stride, augmentation=self.augmentation, region=self.region)
        how: dict[str, Any] = {
            "augmentation": self.augmentation,
            "region": self.region,
            "min_speech_share": self.min_speech_share,
        }
        return partial(sample, windows=self.windows_per_clip, step=self.window_stride, **how)

    def lr_at(self, step: int) -> float:
        """The learning rate of the step after `step` steps."""
        warm = max(WARM, min(0.5, LEAST_WARM / self.steps))
        return self.lr * (one_cycle(step / self.steps, warm) if self.schedule == "one-cycle" else 1.0)


def one_cycle(done: float, warm: float = WARM) -> float:
    """The learning rate's share of its peak after `done` (0 to 1) of the steps: up by a cosine, then down to zero."""
    if done < warm:
        return 0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * done / warm))
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (done - warm) / (1 - warm)))


class LowerHalfSyncNet(nn.Module):
    """The released network where a small one is expected: of a square it sees the lower half.

    Its embeddings are not signed and its scale is not learnt with the loss it was made for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.released = SyncNet()
        self.log_scale = nn.Parameter(torch.tensor(2.3))  # as SmallSyncNet's

    def forward(self, mel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, 80, 16) and (B, 15, 96, 96) to audio and face (B, 512)."""
        return self.embed_mel(mel), self.embed_faces(faces)

    def embed_mel(self, mel: Tensor) -> Tensor:
        """The sound's half of `forward`."""
        return F.normalize(self.released.audio_encoder(mel).flatten(1).float())

    def embed_faces(self, faces: Tensor) -> Tensor:
        """The picture's half of `forward`."""
        half = faces[:, :, faces.shape[2] // 2 :]
        return F.normalize(self.released.face_encoder(half).flatten(1).float())


def build_network(recipe: SyncNetRecipe) -> SmallSyncNet | LowerHalfSyncNet:
    """A new network, its weights drawn by torch's generator."""
    if recipe.network == "released":
        network: SmallSyncNet | LowerHalfSyncNet = LowerHalfSyncNet()
    else:
        network = SmallSyncNet(recipe.dimension, recipe.region.size, recipe.norm, recipe.dropout)
    network.log_scale.requires_grad_(recipe.loss == "matching")  # several processes wait for every gradient
    return network


def build_optimizer(recipe: SyncNetRecipe, network: nn.Module) -> torch.optim.Optimizer:
    """Of everything that is learnt."""
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    learnt = [weight for weight in network.parameters() if weight.requires_grad]
    return kind(learnt, lr=recipe.lr, weight_decay=recipe.weight_decay)


def expert_of(recipe: SyncNetRecipe, network: SmallSyncNet | LowerHalfSyncNet, step: int) -> SyncExpert:
    """The network as an expert that embeds clips."""
    return SyncExpert(cast(SmallSyncNet, network), recipe.region, step)


def save_network(recipe: SyncNetRecipe, network: SmallSyncNet | LowerHalfSyncNet, step: int, path: Path) -> None:
    """Writes a checkpoint: a small network's opens with `SyncExpert.load`; a released one's has the released keys."""
    if isinstance(network, SmallSyncNet):
        return expert_of(recipe, network, step).save(path)
    crop = {"kind": "points", "region": asdict(recipe.region)}
    Checkpoint("syncnet", {}, asdict(AudioConfig()), crop, network.released.state_dict(), step).save(path)


def load_network(recipe: SyncNetRecipe, network: SmallSyncNet | LowerHalfSyncNet, path: Path) -> None:
    """Takes over the weights of an expert's checkpoint.

    Raises:
        UsageError: it holds another network, or one that sees another part of the face.
    """
    theirs = SyncExpert.load(path)
    alike = isinstance(network, SmallSyncNet) and theirs.network.config == network.config
    if not alike or theirs.region != recipe.region:
        raise UsageError(
            f"{display_path(path)} is not such a network as is trained: {theirs.network.config}, {theirs.region}"
        )
    network.load_state_dict(theirs.network.state_dict())
