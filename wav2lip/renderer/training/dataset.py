"""The painter's training samples on disk, and batches of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from preprocessing.errors import UsageError, display_path
from wav2lip.renderer.painter_inputs import HEIGHT, PLANES, WIDTH, paint_region

SAME_OPENING = 0.3  # of an opening's area: masks that differ by less may be of the same frame
GAIN, TINT = 0.2, 0.06  # augmentation: largest relative change of brightness, and of single channels


@dataclass(frozen=True)
class MouthSamples:
    """Samples made by `wav2lip.renderer.prepare`.

    Attributes:
        planes: (N, channels of PLANES, HEIGHT, WIDTH) uint8, memory-mapped.
        people, clips, cases: (N,) names.
    """

    planes: np.ndarray
    people: np.ndarray
    clips: np.ndarray
    cases: np.ndarray

    @classmethod
    def open(cls, path: Path) -> MouthSamples:
        """Opens PATH.npy and PATH.json.

        Raises:
            UsageError: a file is missing, damaged, or of another version.
        """
        array = path.with_suffix(".npy")
        try:
            planes = np.load(array, mmap_mode="r", allow_pickle=False)
            index = json.loads(path.with_suffix(".json").read_text())
            people, clips, cases = (np.array([item[name] for item in index]) for name in ("person", "clip", "case"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{display_path(array)} has no samples of wav2lip.renderer.prepare ({error})") from error
        if planes.shape[1:] != (sum(PLANES.values()), HEIGHT, WIDTH) or len(planes) != len(people):
            raise UsageError(f"{display_path(array)} was made by another version: run wav2lip.renderer.prepare again")
        return cls(planes, people, clips, cases)

    def __len__(self) -> int:
        return len(self.planes)

    def rows(self, step: int, batch: int, seed: int) -> np.ndarray:
        """(batch,) rows of a step: epochs of all samples, each in an order of its own."""
        first = step * batch
        rows: list[int] = []
        while len(rows) < batch:
            epoch, offset = divmod(first + len(rows), len(self))
            order = np.random.default_rng((seed, epoch)).permutation(len(self))
            rows += order[offset : offset + batch - len(rows)].tolist()
        return np.array(rows)

    def batch(
        self, rows: np.ndarray, rng: np.random.Generator | None = None, others: int = 0
    ) -> dict[str, Tensor]:  # fmt: skip
        """Planes of rows by name, (B, 3 or 1, HEIGHT, WIDTH) in 0 to 1; augmented if there is a generator.

        `region` is added: where the painter may paint.
        `others`, if wanted, are that many more mouths of each video, (B, others, 4, HEIGHT, WIDTH).
        """
        stack = np.sort(rows)
        images = torch.from_numpy(self.planes[stack]).float() / 255
        regions = np.stack([paint_region(np.asarray(inner, np.float32) / 255) for inner in self._plane(stack, "inner")])
        planes, first = {}, 0
        for name, channels in PLANES.items():
            planes[name] = images[:, first : first + channels]
            first += channels
        planes["region"] = torch.from_numpy(regions)[:, None]
        if others:
            planes["others"] = self._others(stack, others, rng or np.random.default_rng(0))
        planes = planes if rng is None else augment(planes, rng)
        return {name: plane.contiguous() for name, plane in planes.items()}

    def _others(self, rows: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
        """(B, count, 4, HEIGHT, WIDTH) mouths and openings, 0 to 1, from the videos of rows, for `PersonEncoder`.

        A mouth as open as the row's may be the target itself, so it is not chosen if there are others.
        """
        found = np.stack([self._others_of(int(row), count, rng) for row in rows])
        target, inner = self._first("target"), self._first("inner")
        return torch.from_numpy(self.planes[found][:, :, [target, target + 1, target + 2, inner]]).float() / 255

    def _others_of(self, row: int, count: int, rng: np.random.Generator) -> np.ndarray:
        same = np.flatnonzero(self.clips == self.clips[row])
        some = rng.choice(same, min(4 * count, len(same)), replace=False)
        masks = self._plane(some, "inner").astype(np.float32)
        own = self._plane(np.array([row]), "inner").astype(np.float32)
        apart = np.abs(masks - own).sum((1, 2)) > SAME_OPENING * own.sum()
        return rng.choice(some[apart] if apart.any() else some, count)

    def _first(self, name: str) -> int:
        return sum(list(PLANES.values())[: list(PLANES).index(name)])

    def _plane(self, rows: np.ndarray, name: str) -> np.ndarray:
        return self.planes[rows, self._first(name)]


def augment(planes: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Mirrors samples and changes their colors, each sample's images alike."""
    count = len(planes["inner"])
    mirrored = torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None]
    gain = rng.uniform(1 - GAIN, 1 + GAIN, (count, 1)) * rng.uniform(1 - TINT, 1 + TINT, (count, 3))
    factor = torch.from_numpy(gain.astype(np.float32))[:, :, None, None]
    changed = {}
    for name, plane in planes.items():
        if name == "others":  # mouths and masks
            flipped = torch.where(mirrored[..., None], plane.flip(4), plane)
            changed[name] = torch.cat([(flipped[:, :, :3] * factor[:, None]).clamp(0, 1), flipped[:, :, 3:]], 2)
            continue
        flipped = torch.where(mirrored, plane.flip(3), plane)
        changed[name] = (flipped * factor).clamp(0, 1) if plane.shape[1] == 3 else flipped
    return changed


def sheet(rows: list[Tensor], path: Path, zoom: int = 2) -> None:
    """Writes rows of (B, 3, H, W) images in 0 to 1 as one picture."""
    strips = [np.hstack(list(row.detach().permute(0, 2, 3, 1).numpy())) for row in rows]
    picture = (np.vstack(strips).clip(0, 1) * 255).astype(np.uint8)
    cv2.imwrite(str(path), cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC))
