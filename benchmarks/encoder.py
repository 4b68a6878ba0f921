"""Quality of the face encoder on held-out people.

    .venv/bin/python benchmarks/encoder.py CLIPS [--split val] [--encoder FILE] [--frames 60]

Verification: pairs of clips compared by mean embedding, separately for clips of one video, of two videos of one person,
and of two people. Image quality: Fréchet distance and identity of increasingly degraded frames. Controls without any
change: interleaved frames, and the two halves of each clip.
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

from evaluation.judge.degradation import degradations  # noqa: E402
from evaluation.metrics.face_crops import SIDE  # noqa: E402
from evaluation.metrics.face_encoder import WEIGHTS, FaceEncoder, identity_distance  # noqa: E402
from evaluation.metrics.frechet import frechet_interval  # noqa: E402
from inference.generator.compositing import crop_mask  # noqa: E402
from preprocessing.dataset.clips import Clip, open_clips  # noqa: E402
from preprocessing.dataset.windows import CropRegion, resample  # noqa: E402

DARKER = (-10, -20)  # levels of 255 inside the mask


@dataclass
class EncodedClip:
    """A clip's speaker, video and faces (N, SIDE, SIDE, 3), with their features and embeddings."""

    speaker: str
    video: str
    faces: np.ndarray
    features: np.ndarray
    embeddings: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(E,) normalized mean embedding of the clip."""
        mean = self.embeddings.mean(axis=0)
        return mean / np.linalg.norm(mean)


def encode(clip: Clip, encoder: FaceEncoder, max_frames: int) -> EncodedClip:
    """Encode at most `max_frames` evenly spaced frames of a clip."""
    step = max(1, -(-clip.frames // max_frames))
    matrix = CropRegion(size=SIDE).matrix(clip)[:2]
    faces = np.stack([resample(face, matrix, SIDE) for face in clip.faces(0, (clip.frames - 1) // step + 1, step)])
    return EncodedClip(clip.speaker, clip.header.source, faces, encoder.features(faces), encoder.embed(faces))


def roc_auc(same: np.ndarray, other: np.ndarray) -> float:
    """Area under the ROC curve: probability that one of `same` exceeds one of `other`; chance level 0.5."""
    return float((same[:, None] > other).mean() + (same[:, None] == other).mean() / 2)


def equal_error_rate(same: np.ndarray, other: np.ndarray) -> float:
    """The error rate at the threshold where false rejections and false acceptances are equal."""
    thresholds = np.sort(np.concatenate([same, other]))
    rejected = np.searchsorted(np.sort(same), thresholds) / len(same)
    accepted = 1 - np.searchsorted(np.sort(other), thresholds) / len(other)
    nearest = np.abs(rejected - accepted).argmin()
    return float(rejected[nearest] + accepted[nearest]) / 2


def print_verification(clips: Sequence[EncodedClip]) -> None:
    """Print AUC and equal error rate over pairs of clips."""
    cosines: dict[str, list[float]] = {"one video": [], "two videos of one person": [], "two people": []}
    for one, two in combinations(clips, 2):
        same_person = "one video" if one.video == two.video else "two videos of one person"
        cosines[same_person if one.speaker == two.speaker else "two people"].append(float(one.mean @ two.mean))
    other = np.array(cosines["two people"])
    print("| clips of | pairs | mean cosine | AUC | EER, % |\n|---|---|---|---|---|")
    for name, values in cosines.items():
        same = np.array(values)
        scores = f"{roc_auc(same, other):.3f} | {100 * equal_error_rate(same, other):.1f}"
        print(f"| {name} | {len(same)} | {same.mean():.3f} | {'– | –' if name == 'two people' else scores} |")


def brighten_mouth(faces: np.ndarray, levels: int) -> np.ndarray:
    """Brighten the masked part, mouth and chin, by this many levels of 255 (negative: darken)."""
    mask = crop_mask("points", SIDE)[..., None]
    return np.clip(np.rint(faces + levels * mask), 0, 255).astype(np.uint8)


def print_degradations(clips: Sequence[EncodedClip], encoder: FaceEncoder) -> None:
    """Print Fréchet distance and identity of degraded frames against the unchanged ones."""
    print("\n| frames | Fréchet distance | 95 % interval | identity |\n|---|---|---|---|")
    halves = [(clip.features[::2], clip.features[1::2], clip.embeddings[::2], clip.embeddings[1::2]) for clip in clips]
    print_row("every other frame against the others", halves)
    cuts = [len(clip.faces) // 2 for clip in clips]
    print_row(
        "second half of each clip against the first",
        [
            (c.features[k:], c.features[:k], c.embeddings[k:], c.embeddings[:k])
            for c, k in zip(clips, cuts, strict=True)
        ],
    )
    changes = {name: (lambda faces, change=change: change(faces, 1.0)) for name, change in degradations().items()}
    changes |= {f"mouth {levels} levels": (lambda faces, n=levels: brighten_mouth(faces, n)) for levels in DARKER}
    for name, change in changes.items():
        rows = []
        for clip in tqdm(clips, unit="clip", desc=name, leave=False, disable=None):
            degraded = change(clip.faces)
            rows.append((encoder.features(degraded), clip.features, encoder.embed(degraded), clip.embeddings))
        print_row(name, rows)
    others = [next(two for two in (*clips[k:], *clips) if two.speaker != one.speaker) for k, one in enumerate(clips)]
    print_row(
        "another person",
        [(b.features, a.features, b.embeddings, a.embeddings) for a, b in zip(clips, others, strict=True)],
    )


def print_row(name: str, rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Print a line of the table from (features, real features, embeddings, real embeddings) of each clip."""
    found = frechet_interval([row[0] for row in rows], [row[1] for row in rows])
    figures = "– | –" if found is None else f"{found[0]:.3f} | {found[1]:.3f} to {found[2]:.3f}"
    print(f"| {name} | {figures} | {np.mean([identity_distance(row[2], row[3]) for row in rows]):.3f} |", flush=True)


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--split", help="only the clips of this split, e.g. val (default: all)")
    parser.add_argument("--encoder", type=Path, default=WEIGHTS)
    parser.add_argument("--frames", type=int, default=60, help="max frames per clip (default: 60)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    try:
        encoder = FaceEncoder.load(args.encoder)
        opened = open_clips(args.clips, 2, args.split)
    except ValueError as error:
        parser.error(str(error))
    clips = [encode(clip, encoder, args.frames) for clip in tqdm(opened, unit="clip", disable=None)]
    people, frames = len({clip.speaker for clip in clips}), sum(len(clip.faces) for clip in clips)
    print(f"{len(clips)} clips of {people} people, {frames} frames; {encoder.step} steps\n")
    print_verification(clips)
    print_degradations(clips, encoder)


if __name__ == "__main__":
    main()
