"""What the face encoder is worth on people it was not trained on.

    .venv/bin/python benchmarks/encoder.py CLIPS [--split val] [--encoder FILE] [--frames 60]

Whose face it is: clips compared by their mean embedding, one person's with each other and with all others', the pairs
of one video apart from those of two. How good the picture is: the Fréchet distance and the identity of pictures that
are made worse step by step. What no change at all gives: frames in between, and the other half of each clip.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from evaluation.judge.degradation import ladder  # noqa: E402
from evaluation.metrics.face_crops import SIDE  # noqa: E402
from evaluation.metrics.face_encoder import WEIGHTS, FaceEncoder, distance  # noqa: E402
from evaluation.metrics.frechet import frechet_interval  # noqa: E402
from inference.generator.compositing import crop_mask  # noqa: E402
from preprocessing.dataset.clips import Clip, open_clips  # noqa: E402
from preprocessing.dataset.windows import CropRegion, resample  # noqa: E402

DARKER = (-10, -20)  # levels of 255 within the mask


@dataclass
class Seen:
    """A clip: who, of which video, its pictures (N, SIDE, SIDE, 3), and what the encoder makes of them."""

    speaker: str
    video: str
    faces: np.ndarray
    features: np.ndarray
    embeddings: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(E,) unit embedding of the whole clip."""
        mean = self.embeddings.mean(axis=0)
        return mean / np.linalg.norm(mean)


def see(clip: Clip, encoder: FaceEncoder, most: int) -> Seen:
    """At most so many frames of a clip, at equal distances."""
    step = max(1, -(-clip.frames // most))
    matrix = CropRegion(size=SIDE).matrix(clip)[:2]
    faces = np.stack([resample(face, matrix, SIDE) for face in clip.faces(0, (clip.frames - 1) // step + 1, step)])
    return Seen(clip.speaker, clip.header.source, faces, encoder.features(faces), encoder.embed(faces))


def area(same: np.ndarray, other: np.ndarray) -> float:
    """Area under the ROC curve: how often one of `same` is above one of `other`, 0.5 by chance."""
    return float((same[:, None] > other).mean() + (same[:, None] == other).mean() / 2)


def equal_error(same: np.ndarray, other: np.ndarray) -> float:
    """The error where as large a share of `same` is refused as of `other` is accepted."""
    bars = np.sort(np.concatenate([same, other]))
    refused = np.searchsorted(np.sort(same), bars) / len(same)
    accepted = 1 - np.searchsorted(np.sort(other), bars) / len(other)
    nearest = np.abs(refused - accepted).argmin()
    return float(refused[nearest] + accepted[nearest]) / 2


def print_verification(clips: Sequence[Seen]) -> None:
    """AUC and equal error rate of pairs of clips."""
    cosines: dict[str, list[float]] = {"one video": [], "two videos of one person": [], "two people": []}
    for one, two in combinations(clips, 2):
        alike = "one video" if one.video == two.video else "two videos of one person"
        cosines[alike if one.speaker == two.speaker else "two people"].append(float(one.mean @ two.mean))
    other = np.array(cosines["two people"])
    print("| pairs of clips of | pairs | mean cosine | AUC | equal error, % |\n|---|---|---|---|---|")
    for name, values in cosines.items():
        same = np.array(values)
        scores = f"{area(same, other):.3f} | {100 * equal_error(same, other):.1f}"
        print(f"| {name} | {len(same)} | {same.mean():.3f} | {'– | –' if name == 'two people' else scores} |")


def lit(faces: np.ndarray, levels: int) -> np.ndarray:
    """The masked part, mouth and chin, by so many levels of 255 brighter (negative: darker)."""
    mask = crop_mask("points", SIDE)[..., None]
    return np.clip(np.rint(faces + levels * mask), 0, 255).astype(np.uint8)


def print_ladder(clips: Sequence[Seen], encoder: FaceEncoder) -> None:
    """Fréchet distance and identity of changed pictures against those as they are."""
    print("\n| pictures | Fréchet distance | 95 % interval | identity |\n|---|---|---|---|")
    halves = [(clip.features[::2], clip.features[1::2], clip.embeddings[::2], clip.embeddings[1::2]) for clip in clips]
    show("every other frame against the others", halves)
    cuts = [len(clip.faces) // 2 for clip in clips]
    show(
        "second half of each clip against the first",
        [
            (c.features[k:], c.features[:k], c.embeddings[k:], c.embeddings[:k])
            for c, k in zip(clips, cuts, strict=True)
        ],
    )
    changes = {name: (lambda faces, change=change: change(faces, 1.0)) for name, change in ladder().items()}
    changes |= {f"mouth {levels} levels": (lambda faces, n=levels: lit(faces, n)) for levels in DARKER}
    for name, change in changes.items():
        rows = []
        for clip in tqdm(clips, unit="clip", desc=name, leave=False, disable=None):
            worse = change(clip.faces)
            rows.append((encoder.features(worse), clip.features, encoder.embed(worse), clip.embeddings))
        show(name, rows)
    others = [next(two for two in (*clips[k:], *clips) if two.speaker != one.speaker) for k, one in enumerate(clips)]
    show(
        "another person",
        [(b.features, a.features, b.embeddings, a.embeddings) for a, b in zip(clips, others, strict=True)],
    )


def show(name: str, rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """A line: (features, real features, embeddings, real embeddings) of each clip."""
    found = frechet_interval([row[0] for row in rows], [row[1] for row in rows])
    figures = "– | –" if found is None else f"{found[0]:.3f} | {found[1]:.3f} to {found[2]:.3f}"
    print(f"| {name} | {figures} | {np.mean([distance(row[2], row[3]) for row in rows]):.3f} |", flush=True)


def main() -> None:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--split", help="only the clips of this split, e.g. val (default: all)")
    parser.add_argument("--encoder", type=Path, default=WEIGHTS)
    parser.add_argument("--frames", type=int, default=60, help="of each clip at most (default: 60)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    try:
        encoder = FaceEncoder.load(args.encoder)
        opened = open_clips(args.clips, 2, args.split)
    except ValueError as error:
        parser.error(str(error))
    clips = [see(clip, encoder, args.frames) for clip in tqdm(opened, unit="clip", disable=None)]
    people, frames = len({clip.speaker for clip in clips}), sum(len(clip.faces) for clip in clips)
    print(f"{len(clips)} clips of {people} people, {frames} frames; {encoder.step} steps\n")
    print_verification(clips)
    print_ladder(clips, encoder)


if __name__ == "__main__":
    main()
