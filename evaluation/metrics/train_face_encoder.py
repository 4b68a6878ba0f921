"""Trains the face encoder: `python -m evaluation.metrics.train_face_encoder CLIPS --out FILE`.

CLIPS is a folder that preprocessing.build made; with a manifest only its split "train" is used. The network learns to
name the person of a face (CosFace, arXiv 1801.09414): faces of one person come together, those of others apart.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from evaluation.metrics.face_crops import SIDE
from evaluation.metrics.face_encoder import FaceEncoder, FaceNetwork
from preprocessing.commands import run_command
from preprocessing.dataset.augmentation import Augmentation, ImageTransform
from preprocessing.dataset.clips import Clip
from preprocessing.dataset.windows import CropRegion, face_window, open_splits, resample
from preprocessing.errors import TrainingError, UsageError

MARGIN = 8  # pixels around a face of SIDE, so that one that is moved shows no edge
SPREAD = (SIDE + 2 * MARGIN) / SIDE
KEPT = CropRegion(-MARGIN / SIDE, -MARGIN / SIDE, SPREAD, SIDE + 2 * MARGIN)
FAINT = 1e-3  # what varies less than by this share of the mean variance is not raised to the others' size
# No blur, JPEG or noise: the features have to mind them. Strong colours, for most people are seen in one light alone.
AUGMENTATION = Augmentation(
    shift=4, turn=6, zoom=(0.92, 1.1), grey=0.15, gain=(0.65, 1.4), tint=0.5, gamma=(0.65, 1.5), blur=0, jpeg=0, noise=0
)


@dataclass(frozen=True)
class FaceEncoderRecipe:
    """How the encoder is trained.

    Attributes:
        steps: batches.
        batch: faces of a batch, each of a person drawn anew.
        rate: the highest learning rate; it rises through the first twentieth of the steps, then falls as a cosine.
        weight_decay: of AdamW.
        scale, margin: CosFace's s and m.
        pictures: kept of each person, spread over all clips.
        seed: of the weights and all draws.
    """

    steps: int = 500
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    scale: float = 16.0
    margin: float = 0.2
    pictures: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "pictures"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, not {getattr(self, name)}")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min(1.0, (step + 1) / (self.steps / 20))
        return self.lr * rise * (0.01 + 0.99 * (1 + np.cos(np.pi * step / self.steps)) / 2)


def gather(clips: Sequence[Clip], pictures: int) -> list[np.ndarray]:
    """Faces with a margin, (n, 144, 144, 3) uint8 BGR for each person; n is `pictures` or all there are.

    Raises:
        UsageError: there are fewer than two people.
    """
    people = defaultdict[str, list[Clip]](list)
    for clip in clips:
        people[clip.speaker].append(clip)
    if len(people) < 2:
        raise UsageError(f"an encoder of faces needs clips of two people or more, not of {len(people)}")
    return [_spread(theirs, pictures) for _, theirs in tqdm(sorted(people.items()), unit="person", disable=None)]


def _spread(clips: Sequence[Clip], pictures: int) -> np.ndarray:
    """Frames at equal distances through all clips of a person."""
    places = [(clip, frame) for clip in clips for frame in range(clip.frames)]
    chosen = np.unique(np.linspace(0, len(places) - 1, pictures).astype(int))
    return np.concatenate([face_window(places[index][0], KEPT, places[index][1], 1) for index in chosen])


def augmented(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A face with its margin, (144, 144, 3), as one of (SIDE, SIDE, 3) that is moved, turned and coloured."""
    view = ImageTransform.draw(AUGMENTATION, rng, SIDE / 96)
    matrix = view.matrix(len(picture))[:2] - np.array([[0, 0, MARGIN], [0, 0, MARGIN]])
    return view.apply_photometric(resample(picture, matrix, SIDE)[None])[0]


def draw(people: Sequence[np.ndarray], recipe: FaceEncoderRecipe, step: int) -> tuple[Tensor, Tensor]:
    """A step's faces (B, 3, SIDE, SIDE), 0 to 1, and whose they are (B,); they depend on seed and step alone."""
    rng = np.random.default_rng((recipe.seed, step))
    names = rng.integers(len(people), size=recipe.batch)
    faces = np.stack([augmented(people[name][rng.integers(len(people[name]))], rng) for name in names])
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(names)


def cosface_loss(cosines: Tensor, names: Tensor, scale: float, margin: float) -> Tensor:
    """Cross entropy after a margin off the right cosine (CosFace, equation 4).

    Args:
        cosines: (B, P) of faces and people, -1 to 1.
        names: (B,) int64, the right person.
        scale, margin: s and m.
    """
    right = F.one_hot(names, cosines.shape[1])
    return F.cross_entropy(scale * (cosines - margin * right), names)


def train(people: Sequence[np.ndarray], recipe: FaceEncoderRecipe) -> FaceEncoder:
    """Trains on faces by person.

    Raises:
        TrainingError: the loss is no number.
    """
    torch.manual_seed(recipe.seed)
    network = FaceNetwork().train()
    centres = nn.Parameter(torch.randn(len(people), network.config["dimension"]))
    parameters = [*network.parameters(), centres]
    optimizer = torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    with tqdm(range(recipe.steps), unit="step", mininterval=2) as bar:
        for step in bar:
            faces, names = draw(people, recipe, step)
            optimizer.param_groups[0]["lr"] = recipe.lr_at(step)
            loss = cosface_loss(network(faces) @ F.normalize(centres).T, names, recipe.scale, recipe.margin)
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss is {loss.item()} at step {step}; try a lower rate")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    encoder = FaceEncoder(network.eval().requires_grad_(False), recipe.steps)
    whiten(encoder, people)
    return encoder


def whiten(encoder: FaceEncoder, people: Sequence[np.ndarray]) -> None:
    """Sets the network's whitening by its features of all faces (n, 144, 144, 3), without their margins."""
    network, inner = encoder.network, slice(MARGIN, -MARGIN)
    network.whitening.copy_(torch.eye(len(network.whitening)))
    features = [encoder.features(np.ascontiguousarray(faces[:, inner, inner])) for faces in people]
    network.whitening.copy_(torch.from_numpy(whitening(np.concatenate(features))))


def whitening(features: np.ndarray) -> np.ndarray:
    """C^-½ of the covariance C of (N, D) features, (D, D), with FAINT of the mean variance added in all directions."""
    values, vectors = np.linalg.eigh(np.cov(features.T.astype(np.float64)))
    return vectors / np.sqrt(np.clip(values, 0, None) + FAINT * max(values.mean(), 1e-9)) @ vectors.T


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = argparse.ArgumentParser(
        prog="python -m evaluation.metrics.train_face_encoder", description=__doc__, allow_abbrev=False
    )
    p.add_argument("clips", type=Path, help="folder of clips of many people")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")
    p.add_argument(
        "--steps", type=int, default=FaceEncoderRecipe.steps, help=f"batches (default: {FaceEncoderRecipe.steps})"
    )
    p.add_argument(
        "--batch", type=int, default=FaceEncoderRecipe.batch, help=f"faces in each (default: {FaceEncoderRecipe.batch})"
    )
    p.add_argument(
        "--lr", type=float, default=FaceEncoderRecipe.lr, help=f"learning rate (default: {FaceEncoderRecipe.lr})"
    )
    p.add_argument(
        "--seed", type=int, default=FaceEncoderRecipe.seed, help=f"of all draws (default: {FaceEncoderRecipe.seed})"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 when it has trained, 1 when it could not go on, 2 for wrong usage, 130 when interrupted."""
    args = parser().parse_args(argv)
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)

    def job() -> None:
        if not args.out.parent.is_dir():
            raise UsageError(f"--out {args.out} cannot be written: {args.out.parent} is no folder")
        recipe = FaceEncoderRecipe(steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed)
        clips, _ = open_splits(args.clips, None, 1)
        train(gather(clips, recipe.pictures), recipe).save(args.out)

    return run_command("evaluation.metrics.train_face_encoder", job)


if __name__ == "__main__":
    sys.exit(main())
