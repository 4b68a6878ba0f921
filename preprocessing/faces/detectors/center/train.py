"""Trains the face detector on labeled videos.

    python -m preprocessing.faces.detectors.center.train --config configs/face-detector.yaml \\
        --videos VIDEOS --mesh LABELS --out runs/face-detector

Its scenes are made as it trains, from frames that are extracted once and cached in --cache. Writes to the run folder:
face_detector.safetensors (the averaged weights), log.jsonl, config.json and state.pt, from which the same command
resumes. Exit code: 0 on success, 1 if training failed, 2 for wrong usage, 130 if interrupted.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # what follows takes seconds to import
    print("preprocessing.faces.detectors.center.train: starting", file=sys.stderr, flush=True)

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from preprocessing.commands import run_command
from preprocessing.errors import UsageError, display_path, require_at_least
from preprocessing.faces.detectors.center.detector import KIND, detections_of
from preprocessing.faces.detectors.center.model import CenterNet, FrameNetwork
from preprocessing.faces.detectors.center.network_config import CenterConfig, center_config
from preprocessing.faces.detectors.center.training.losses import CenterLossWeights, Targets, center_losses, targets_of
from preprocessing.faces.detectors.center.training.measure import DetectionCount
from preprocessing.faces.detectors.center.training.pictures import (
    Pictures,
    make_pictures,
    open_pictures,
    read_backgrounds,
)
from preprocessing.faces.detectors.center.training.scenes import Scene, SceneMaker, SceneRecipe
from preprocessing.faces.landmarks.training.labels import has_split, person_shares
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
VALIDATED = 200  # scenes
VALIDATED_SCORE = 0.4  # without the check of presence


@dataclass(frozen=True)
class CenterRecipe:
    """Training settings.

    Attributes:
        network: Architecture of the detector.
        scenes: How training pictures are made.
        weights: Loss weights.
        steps: Training steps.
        batch_size: Scenes per step.
        doubled_every: Every so many steps, half as many scenes of twice the side, with faces twice as large.
        lr: Peak learning rate, with linear warmup and cosine decay.
        warmup: Warmup steps.
        weight_decay: Weight decay of AdamW.
        average: Decay of the exponential moving average of the weights.
        person_power: A person with n frames is sampled in proportion to n to this power.
        seed: Random seed of initialization and scenes.
    """

    network: CenterConfig = field(default_factory=CenterConfig)
    scenes: SceneRecipe = field(default_factory=SceneRecipe)
    weights: CenterLossWeights = field(default_factory=CenterLossWeights)
    steps: int = 4000
    batch_size: int = 16
    doubled_every: int = 4
    lr: float = 3e-3
    warmup: int = 150
    weight_decay: float = 1e-3
    average: float = 0.998
    person_power: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, batch_size=1, warmup=1, doubled_every=1)

    def lr_at(self, step: int) -> float:
        """Learning rate at a step."""
        return warmed_cosine(self.lr, step, self.steps, self.warmup)


@dataclass(frozen=True)
class CenterTrainOptions:
    """Training job.

    Attributes:
        videos: Folder of the videos, as of preprocessing.faces.landmarks.train.
        mesh: Folder of their mesh labels.
        out: Run folder; an existing run in it is resumed.
        stills: File of labeled still images of more people.
        backgrounds: Folder of pictures without any face.
        val_videos: Folder of validation videos of other people.
        val_mesh: Folder of their labels.
        init: Checkpoint from whose weights a new run starts.
        cache: Folder of the extracted frames (default: OUT/pictures).
        per_person: Maximum number of frames per person.
        log_every: Steps between logged losses.
        validate_every: Steps between validations and saved states.
    """

    videos: Path
    mesh: Path
    out: Path
    stills: Path | None = None
    backgrounds: Path | None = None
    val_videos: Path | None = None
    val_mesh: Path | None = None
    init: Path | None = None
    cache: Path | None = None
    per_person: int = 24
    log_every: int = 50
    validate_every: int = 500

    def __post_init__(self) -> None:
        require_at_least(self, per_person=1, log_every=1, validate_every=1)
        if (self.val_videos is None) != (self.val_mesh is None):
            raise UsageError("val_videos and val_mesh must be given together")


CenterTrainState = AveragedState[CenterRecipe, CenterNet]


def start(recipe: CenterRecipe, fabric: Fabric, init: Path | None = None) -> CenterTrainState:
    """Initializes training, at random or from a checkpoint.

    Raises:
        UsageError: the checkpoint cannot be used, or is another network's.
    """
    torch.manual_seed(recipe.seed)
    network = CenterNet(recipe.network)
    if init is not None:
        saved = Checkpoint.load(init, KIND)
        if (theirs := center_config(saved.config["network"])) != recipe.network:
            raise UsageError(f"{display_path(init)} has the network {theirs}, not {recipe.network}")
        network.load_state_dict(saved.weights)
    return AveragedState.start(recipe, fabric, network)


def draw_scenes(makers: tuple[SceneMaker, SceneMaker], recipe: CenterRecipe, step: int) -> list[Scene]:
    """The scenes of a step, determined by seed and step; the second maker makes doubled ones."""
    rng = np.random.default_rng((recipe.seed, step))
    doubled = (step + 1) % recipe.doubled_every == 0
    count = max(1, recipe.batch_size // 2) if doubled else recipe.batch_size
    return [makers[doubled].draw(rng) for _ in range(count)]


def pictures_tensor(scenes: Sequence[Scene]) -> Tensor:
    """(B, 3, S, S), 0 to 1."""
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def train_step(state: CenterTrainState, pictures: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Runs one training step; returns the losses by name.

    Raises:
        TrainingError: the loss is not finite; the network is unchanged.
    """
    logits, values = state.forward(pictures)
    losses = center_losses(logits, values, targets)
    state.descend(total(losses, state.recipe.weights), MAX_NORM)
    return {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def validate(network: CenterNet, scenes: Sequence[Scene]) -> dict[str, float]:
    """Recall, false faces per scene and overlap of the faces found."""
    count, frames = DetectionCount(), FrameNetwork(network)
    for scene in scenes:
        heat, values = (part.numpy() for part in frames(torch.from_numpy(scene.image[None])))
        side = scene.image.shape[0]
        count.add(detections_of(heat[0], values[0], VALIDATED_SCORE), scene.boxes, scene.ignored, (side, side))
    return count.figures()


def check(state: CenterTrainState, run: RunFolder, held_out: Sequence[Scene]) -> None:
    """Validates and writes checkpoint and state; on rank 0 only."""
    if not run.writes:
        return
    if held_out:
        run.log(state.step, **{f"val_{name}": value for name, value in validate(state.averaged, held_out).items()})
    config = {"network": asdict(state.recipe.network)}
    saved = Checkpoint(KIND, config, {}, {}, state.averaged.state_dict(), state.step)
    saved.save(run.folder / "face_detector.safetensors", half=True)
    state.save(run)


def load_pictures(
    videos: Path, mesh: Path, cache: Path, per_person: int, stills: Path | None = None, split: str | None = None
) -> Pictures:  # fmt: skip
    """Opens the cached frames, extracting them first if the cache is empty."""
    if not (cache / "done.json").is_file():
        make_pictures(videos, mesh, cache, per_person, stills, split)
    return open_pictures(cache)


def held_out_scenes(options: CenterTrainOptions, cache: Path, recipe: CenterRecipe) -> list[Scene]:
    """Scenes of the validation folders, or else of the split "val" of the labels' table; none without either."""
    if options.val_videos and options.val_mesh:
        pictures = load_pictures(options.val_videos, options.val_mesh, cache, options.per_person)
    elif has_split(options.mesh, "val"):
        pictures = load_pictures(options.videos, options.mesh, cache, options.per_person, split="val")
    else:
        return []
    shares = person_shares(pictures.persons, recipe.person_power)
    maker = SceneMaker(pictures, [], recipe.scenes.doubled(), shares)
    rng = np.random.default_rng(recipe.seed)
    return [maker.draw(rng) for _ in range(VALIDATED)]


def train(recipe: CenterRecipe, options: CenterTrainOptions, engine: Engine) -> None:
    """Trains up to `recipe.steps` steps.

    Raises:
        UsageError: the videos, options or an earlier run in the folder are incompatible.
        TrainingError: the loss is not finite.
    """
    if engine.devices > 1:
        raise UsageError(f"the face detector trains in a single process, not {engine.devices}")
    cache, cores = options.cache or options.out / "pictures", cv2.getNumThreads()
    pictures = load_pictures(
        options.videos, options.mesh, cache / "train", options.per_person, options.stills, "train"
    )  # fmt: skip
    shares = person_shares(pictures.persons, recipe.person_power)
    maker = SceneMaker(pictures, read_backgrounds(options.backgrounds), recipe.scenes, shares)
    makers = maker, maker.doubled()
    held_out = held_out_scenes(options, cache / "val", recipe)
    fabric = engine.launch()
    run, state = RunFolder(options.out, writes=fabric.is_global_zero), start(recipe, fabric, options.init)
    state.resume(run)
    run.write_config(asdict(recipe))
    cv2.setNumThreads(1)  # scenes are small: more threads wait for each other
    try:
        for step in training_steps(range(state.step, recipe.steps), state.step, recipe.steps, run.writes):
            scenes = draw_scenes(makers, recipe, step)
            losses = train_step(state, *fabric.to_device((pictures_tensor(scenes), targets_of(scenes))))
            if due(state.step, options.log_every):
                run.log(state.step, **{name: value.item() for name, value in losses.items()})
            if due(state.step, options.validate_every) or state.step == recipe.steps:
                check(state, run, held_out)
    finally:
        cv2.setNumThreads(cores)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> None:
        given = sys.argv[1:] if argv is None else argv
        program = "python -m preprocessing.faces.detectors.center.train"
        options, recipe, engine = parse_recipe(given, program, __doc__, CenterTrainOptions, CenterRecipe, Engine)
        train(recipe, options, engine)

    return run_command("preprocessing.faces.detectors.center.train", job, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
