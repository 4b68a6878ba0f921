"""Train the face encoder: `python -m evaluation.metrics.train_face_encoder CLIPS --out FILE`.

CLIPS is a folder written by preprocessing.build; with a manifest only its train split is used. The network learns to
classify identities (CosFace, arXiv 1801.09414), which clusters faces of one person and separates different people.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # what follows takes seconds to import
    print("evaluation.metrics.train_face_encoder: starting", file=sys.stderr, flush=True)

import argparse
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
from preprocessing.errors import TrainingError, UsageError, require_at_least

MARGIN = 8  # extra pixels around a face of SIDE, so that shifted faces show no border
SPREAD = (SIDE + 2 * MARGIN) / SIDE
REGION = CropRegion(-MARGIN / SIDE, -MARGIN / SIDE, SPREAD, SIDE + 2 * MARGIN)
WHITENING_EPS = 1e-3  # fraction of the mean variance added in all directions, so that tiny ones are not amplified
# No blur, JPEG or noise: the features must be sensitive to them. Strong color changes, since most people appear in a
# single lighting condition.
AUGMENTATION = Augmentation(
    shift=4, turn=6, zoom=(0.92, 1.1), grey=0.15, gain=(0.65, 1.4), tint=0.5, gamma=(0.65, 1.5), blur=0, jpeg=0, noise=0
)


@dataclass(frozen=True)
class FaceEncoderRecipe:
    """Training recipe of the face encoder.

    Attributes:
        steps: number of batches.
        batch: faces per batch, each of a randomly drawn person.
        lr: peak learning rate; linear warmup over the first 5 % of the steps, then cosine decay.
        weight_decay: of AdamW.
        scale, margin: s and m of CosFace.
        faces_per_person: frames kept per person, spread over all their clips.
        seed: of the weights and all sampling.
    """

    steps: int = 500
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    scale: float = 16.0
    margin: float = 0.2
    faces_per_person: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, batch=1, faces_per_person=1)

    def lr_at(self, step: int) -> float:
        """The learning rate at a step."""
        warmup = min(1.0, (step + 1) / (self.steps / 20))
        return self.lr * warmup * (0.01 + 0.99 * (1 + np.cos(np.pi * step / self.steps)) / 2)


def load_faces(clips: Sequence[Clip], count: int) -> list[np.ndarray]:
    """Faces with a margin, (n, 144, 144, 3) uint8 BGR per person; n is at most `count`.

    Raises:
        UsageError: there are fewer than two people.
    """
    people = defaultdict[str, list[Clip]](list)
    for clip in clips:
        people[clip.speaker].append(clip)
    if len(people) < 2:
        raise UsageError(f"training a face encoder requires clips of at least two people, not {len(people)}")
    return [
        _spread(person_clips, count) for _, person_clips in tqdm(sorted(people.items()), unit="person", disable=None)
    ]


def _spread(clips: Sequence[Clip], count: int) -> np.ndarray:
    """Frames evenly spaced over all clips of a person."""
    positions = [(clip, frame) for clip in clips for frame in range(clip.frames)]
    chosen = np.unique(np.linspace(0, len(positions) - 1, count).astype(int))
    return np.concatenate([face_window(positions[index][0], REGION, positions[index][1], 1) for index in chosen])


def augment(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift, rotate and color-jitter a face with its margin, (144, 144, 3), into one of (SIDE, SIDE, 3)."""
    view = ImageTransform.draw(AUGMENTATION, rng, SIDE / 96)
    matrix = view.matrix(len(face))[:2] - np.array([[0, 0, MARGIN], [0, 0, MARGIN]])
    return view.apply_photometric(resample(face, matrix, SIDE)[None])[0]


def sample_batch(people: Sequence[np.ndarray], recipe: FaceEncoderRecipe, step: int) -> tuple[Tensor, Tensor]:
    """Faces (B, 3, SIDE, SIDE) in [0, 1] and identity labels (B,); determined by seed and step alone."""
    rng = np.random.default_rng((recipe.seed, step))
    labels = rng.integers(len(people), size=recipe.batch)
    faces = np.stack([augment(people[label][rng.integers(len(people[label]))], rng) for label in labels])
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def cosface_loss(cosines: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Cross entropy with a margin subtracted from the target cosine (CosFace, equation 4).

    Args:
        cosines: (B, P) between faces and class centers, -1 to 1.
        labels: (B,) int64, identity.
        scale, margin: s and m.
    """
    target = F.one_hot(labels, cosines.shape[1])
    return F.cross_entropy(scale * (cosines - margin * target), labels)


def train(people: Sequence[np.ndarray], recipe: FaceEncoderRecipe) -> FaceEncoder:
    """Train on faces grouped by person.

    Raises:
        TrainingError: the loss is not finite.
    """
    torch.manual_seed(recipe.seed)
    network = FaceNetwork().train()
    centers = nn.Parameter(torch.randn(len(people), network.config["dimension"]))
    parameters = [*network.parameters(), centers]
    optimizer = torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    with tqdm(range(recipe.steps), unit="step", mininterval=2) as bar:
        for step in bar:
            faces, labels = sample_batch(people, recipe, step)
            optimizer.param_groups[0]["lr"] = recipe.lr_at(step)
            loss = cosface_loss(network(faces) @ F.normalize(centers).T, labels, recipe.scale, recipe.margin)
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss is {loss.item()} at step {step}; try a lower learning rate")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    encoder = FaceEncoder(network.eval().requires_grad_(False), recipe.steps)
    whiten(encoder, people)
    return encoder


def whiten(encoder: FaceEncoder, people: Sequence[np.ndarray]) -> None:
    """Set the network's whitening from its features of all faces (n, 144, 144, 3), margins removed."""
    network, inner = encoder.network, slice(MARGIN, -MARGIN)
    network.whitening.copy_(torch.eye(len(network.whitening)))
    features = [encoder.features(np.ascontiguousarray(faces[:, inner, inner])) for faces in people]
    network.whitening.copy_(torch.from_numpy(whitening_matrix(np.concatenate(features))))


def whitening_matrix(features: np.ndarray) -> np.ndarray:
    """C^-½ of the covariance C of (N, D) features, (D, D), regularized by WHITENING_EPS times the mean variance."""
    values, vectors = np.linalg.eigh(np.cov(features.T.astype(np.float64)))
    return vectors / np.sqrt(np.clip(values, 0, None) + WHITENING_EPS * max(values.mean(), 1e-9)) @ vectors.T


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    p = argparse.ArgumentParser(
        prog="python -m evaluation.metrics.train_face_encoder", description=__doc__, allow_abbrev=False
    )
    p.add_argument("clips", type=Path, help="folder of clips of at least two people")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="checkpoint to write (.safetensors)")
    p.add_argument("--steps", type=int, default=FaceEncoderRecipe.steps, help="training steps (default: %(default)s)")
    p.add_argument("--batch", type=int, default=FaceEncoderRecipe.batch, help="faces per batch (default: %(default)s)")
    p.add_argument("--lr", type=float, default=FaceEncoderRecipe.lr, help="learning rate (default: %(default)s)")
    p.add_argument("--seed", type=int, default=FaceEncoderRecipe.seed, help="random seed (default: %(default)s)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 on success, 1 on failure, 2 for invalid usage, 130 if interrupted."""
    args = parser().parse_args(argv)
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)

    def job() -> None:
        if not args.out.parent.is_dir():
            raise UsageError(f"--out {args.out} cannot be written: {args.out.parent} is not a folder")
        recipe = FaceEncoderRecipe(steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed)
        clips, _ = open_splits(args.clips, None, 1)
        train(load_faces(clips, recipe.faces_per_person), recipe).save(args.out)

    return run_command("evaluation.metrics.train_face_encoder", job)


if __name__ == "__main__":
    sys.exit(main())
