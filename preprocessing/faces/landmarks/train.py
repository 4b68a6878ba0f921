"""Trains one of the two landmark networks on labeled videos.

    python -m preprocessing.faces.landmarks.train --config configs/landmarks-face.yaml \\
        --videos VIDEOS --mesh LABELS --out runs/landmarks-face

Writes to the run folder: network.safetensors (the averaged weights), log.jsonl, config.json and state.pt, from which
the same command resumes. Crops are extracted once and cached in --cache. Exit code: 0 on success, 1 if training failed,
2 for wrong usage, 130 if interrupted.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # what follows takes seconds to import
    print("preprocessing.faces.landmarks.train: starting", file=sys.stderr, flush=True)

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from preprocessing.commands import run_command
from preprocessing.errors import UsageError, require_at_least
from preprocessing.faces.landmarks.model import LandmarkNet
from preprocessing.faces.landmarks.network_config import NetworkConfig, network_config, to_pixels
from preprocessing.faces.landmarks.training.augmentation import ExampleMaker, LandmarkAugmentation, LandmarkExample
from preprocessing.faces.landmarks.training.crops import Crops, make_crops, open_crops
from preprocessing.faces.landmarks.training.labels import has_split, person_shares
from preprocessing.faces.landmarks.training.losses import LandmarkLoss, LandmarkLossWeights, measure_points
from preprocessing.faces.mesh import MESH_INDICES
from training.averaging import AveragedState, warmed_cosine
from training.checkpoint import Checkpoint
from training.engine import Engine
from training.losses import total
from training.options import parse_recipe
from training.progress import training_steps
from training.run import RESUMES, RunFolder, due

if TYPE_CHECKING:
    from lightning_fabric import Fabric


MAX_NORM = 20.0  # of the gradient


@dataclass(frozen=True)
class LandmarkRecipe:
    """Training settings.

    Attributes:
        network: Architecture of the network.
        augmentation: Data augmentation.
        weights: Loss weights.
        steps: Training steps.
        batch_size: Examples per step.
        lr: Peak learning rate, with linear warmup and cosine decay.
        warmup: Warmup steps.
        weight_decay: Weight decay of AdamW.
        average: Decay of the exponential moving average of the weights.
        person_power: A person with n crops is sampled in proportion to n to this power.
        seed: Random seed of initialization and sampling.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    augmentation: LandmarkAugmentation = field(default_factory=LandmarkAugmentation)
    weights: LandmarkLossWeights = field(default_factory=LandmarkLossWeights)
    steps: int = 6000
    batch_size: int = 32
    lr: float = 2e-3
    warmup: int = 150
    weight_decay: float = 1e-3
    average: float = 0.998
    person_power: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, batch_size=1, warmup=1)

    def lr_at(self, step: int) -> float:
        """Learning rate at a step."""
        return warmed_cosine(self.lr, step, self.steps, self.warmup)


@dataclass(frozen=True)
class LandmarkTrainOptions:
    """Training job.

    Attributes:
        videos: Folder of the videos. Without a table of the labels: NAME__CLIP.mp4, where NAME is the person.
        mesh: Folder of their mesh labels, made by preprocessing.build --mesh, whose splits train and val are then used,
            or by preprocessing/faces/landmarks/training/label.py.
        out: Run folder; an existing run in it is resumed.
        init: Checkpoint of the same network to initialize a new run.
        stills: File of labeled still images of more people.
        val_videos: Folder of validation videos of other people.
        val_mesh: Folder of their labels.
        cache: Folder of the crops, extracted in the first run (default: OUT/crops).
        per_person: Maximum number of frames per person.
        log_every: Steps between logged losses.
        validate_every: Steps between validations and saved states.
    """

    videos: Path
    mesh: Path
    out: Path
    init: Path | None = None
    stills: Path | None = None
    val_videos: Path | None = None
    val_mesh: Path | None = None
    cache: Path | None = None
    per_person: int = 60
    log_every: int = 50
    validate_every: int = 250

    def __post_init__(self) -> None:
        require_at_least(self, per_person=1, log_every=1, validate_every=1)
        if (self.val_videos is None) != (self.val_mesh is None):
            raise UsageError("val_videos and val_mesh must be given together")


LandmarkTrainState = AveragedState[LandmarkRecipe, LandmarkNet]


def start(recipe: LandmarkRecipe, fabric: Fabric, mean: np.ndarray, init: Path | None = None) -> LandmarkTrainState:
    """Initializes training with a network that outputs the mean points (P, 3), or with the weights of a checkpoint.

    Raises:
        UsageError: `init` is not a checkpoint of the same network.
    """
    torch.manual_seed(recipe.seed)
    network = LandmarkNet(recipe.network)
    network.init_output(torch.from_numpy(mean))
    if init:
        saved = Checkpoint.load(init, f"landmarks-{recipe.network.part}")
        if network_config(saved.config["network"]) != recipe.network:
            raise UsageError(f"{init} has a different network configuration: {saved.config['network']}")
        network.load_state_dict(saved.weights)
    return AveragedState.start(recipe, fabric, network)


def draw_batch(maker: ExampleMaker, shares: np.ndarray, recipe: LandmarkRecipe, step: int) -> list[Tensor]:
    """Examples of a step: images, points, presence, weights; determined by seed and step."""
    rng = np.random.default_rng((recipe.seed, step))
    rows = rng.choice(len(shares), recipe.batch_size, p=shares)
    return collate([maker.draw(row, rng) for row in rows])


def collate(examples: Sequence[LandmarkExample]) -> list[Tensor]:
    """Images (B, 3, S, S) from 0 to 1, points (B, P, 3), presence (B,), weights (B,)."""
    images = torch.from_numpy(np.stack([example.image for example in examples])).permute(0, 3, 1, 2)
    points = torch.from_numpy(np.stack([example.points for example in examples]))
    presence = torch.tensor([example.presence for example in examples])
    return [images.float() / 255, points, presence, torch.tensor([example.weight for example in examples])]


def train_step(state: LandmarkTrainState, batch: Sequence[Tensor]) -> dict[str, Tensor]:
    """Runs one training step; returns the losses by name.

    Raises:
        TrainingError: the loss is not finite; the network is unchanged.
    """
    images, truth, presence, weight = batch
    points, logits = state.forward(images.contiguous(memory_format=torch.channels_last))
    losses = LandmarkLoss(state.recipe.network)(points, logits, truth, presence, weight)
    state.descend(total(losses, state.recipe.weights), MAX_NORM)
    return {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def validate(network: LandmarkNet, crops: Crops, maker: ExampleMaker, batch: int = 32) -> dict[str, float]:
    """Errors on unaugmented crops; points the network does not predict are taken from the labels."""
    found = crops.points.copy().astype(np.float64)
    for first in range(0, len(found), batch):
        rows = range(first, min(first + batch, len(found)))
        images = collate([maker.plain(row) for row in rows])[0]
        points, _ = network(images.contiguous(memory_format=torch.channels_last))
        for row, shares in zip(rows, points.double().numpy(), strict=True):
            pixels = to_pixels(shares, network.config.size)
            found[row, network.config.rows()] = maker.views[row].to_frame(pixels, network.config.size)
    return measure_points(found, crops.points)


def save_network(recipe: LandmarkRecipe, network: LandmarkNet, step: int, path: Path) -> None:
    """Writes the network as 16-bit floats."""
    config = {"network": asdict(recipe.network), "mesh": list(MESH_INDICES)}
    Checkpoint(f"landmarks-{recipe.network.part}", config, {}, {}, network.state_dict(), step).save(path, half=True)


def check(state: LandmarkTrainState, run: RunFolder, held_out: tuple[Crops, ExampleMaker] | None) -> None:
    """Validates and writes checkpoint and state; on rank 0 only."""
    if not run.writes:
        return
    if held_out:
        run.log(state.step, **{f"val_{name}": value for name, value in validate(state.averaged, *held_out).items()})
    save_network(state.recipe, state.averaged, state.step, run.folder / "network.safetensors")
    state.save(run)


def load_crops(
    videos: Path, mesh: Path, cache: Path, per_person: int, stills: Path | None = None, split: str | None = None
) -> Crops:  # fmt: skip
    """Opens the cached crops, extracting them first if the cache is empty."""
    if not (cache / "done.json").is_file():
        make_crops(videos, mesh, cache, per_person, stills, split)
    return open_crops(cache)


def load_held_out(flags: LandmarkTrainOptions, cache: Path) -> Crops | None:
    """The crops of the validation folders, or else of the split "val" of the labels' table; None without either."""
    if flags.val_videos and flags.val_mesh:
        return load_crops(flags.val_videos, flags.val_mesh, cache, flags.per_person)
    if has_split(flags.mesh, "val"):
        return load_crops(flags.videos, flags.mesh, cache, flags.per_person, split="val")
    return None


def train(recipe: LandmarkRecipe, flags: LandmarkTrainOptions, engine: Engine) -> None:
    """Trains up to `recipe.steps` steps.

    Raises:
        UsageError: the videos, options or an earlier run in the folder are incompatible.
        TrainingError: the loss is not finite.
    """
    if engine.devices > 1:
        raise UsageError(f"landmark networks train in a single process, not {engine.devices}")
    cache = flags.cache or flags.out / "crops"
    crops = load_crops(flags.videos, flags.mesh, cache / "train", flags.per_person, flags.stills, "train")
    maker, held_out = ExampleMaker(crops, recipe.network, recipe.augmentation), None
    if (others := load_held_out(flags, cache / "val")) is not None:
        held_out = others, ExampleMaker(others, recipe.network, recipe.augmentation)
    fabric = engine.launch()
    run = RunFolder(flags.out, writes=fabric.is_global_zero)
    some = np.random.default_rng(recipe.seed).choice(len(crops.points), min(500, len(crops.points)), replace=False)
    state = start(recipe, fabric, np.mean([maker.plain(row).points for row in some], 0), flags.init)
    state.resume(run)
    run.write_config(asdict(recipe))
    shares = person_shares(crops.persons, recipe.person_power)
    for step in training_steps(range(state.step, recipe.steps), state.step, recipe.steps, run.writes):
        losses = train_step(state, fabric.to_device(draw_batch(maker, shares, recipe, step)))
        if due(state.step, flags.log_every):
            run.log(state.step, **{name: value.item() for name, value in losses.items()})
        if due(state.step, flags.validate_every) or state.step == recipe.steps:
            check(state, run, held_out)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        given = sys.argv[1:] if argv is None else argv
        program = "python -m preprocessing.faces.landmarks.train"
        flags, recipe, engine = parse_recipe(given, program, __doc__, LandmarkTrainOptions, LandmarkRecipe, Engine)
        train(recipe, flags, engine)

    return run_command("preprocessing.faces.landmarks.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
