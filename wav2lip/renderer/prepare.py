"""Makes the painter's training samples from labeled videos: `python -m wav2lip.renderer.prepare VIDEOS MESH OUT`.

VIDEOS and MESH are those of wav2lip.lip_motion.prepare. Crops the mouths of the sharper videos to OUT/crops, then draws
and renders samples: OUT/train.npy, OUT/val.npy and a JSON list of each sample's person, clip and case beside them.
Speakers of the split "train" are left out of "val". Existing crops are kept.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from preprocessing.commands import Parser, run_command
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.landmarks.training.labels import LabeledVideo, find_videos
from wav2lip.renderer.painter_inputs import HEIGHT, PLANES, WIDTH
from wav2lip.renderer.training.crops import MIN_FRAMES, MouthCrops, check_density, crop_video
from wav2lip.renderer.training.samples import SHARES, Pair, SampleMaker

SPLITS = ("train", "val")
LEAST_OPENING = 2.5  # units; clips whose mouth never opens that far are left out
TRIES = 100  # draws until a mouth is known


@dataclass(frozen=True)
class PrepareOptions:
    """How many samples are made, and of which videos.

    Attributes:
        frames: frames of a person, spread over its clips.
        samples: training samples.
        validation: validation samples.
        min_scale: pixels per unit below which a video is left out (a unit is 1/42 of the eyes' distance).
        clips: clips of a person.
        seed: random seed.
    """

    frames: int = 120
    samples: int = 12000
    validation: int = 384
    min_scale: float = 1.2
    clips: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("frames", "samples", "validation", "clips"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, not {getattr(self, name)}")
        check_density(self.min_scale)


def person(stem: str) -> str:
    """The person of a crop file by its name."""
    return stem.split("__")[0]


def find_people(videos: Path, mesh: Path, split: str) -> dict[str, list[LabeledVideo]]:
    """Labeled videos of a split by speaker; see `find_videos`."""
    found: dict[str, list[LabeledVideo]] = defaultdict(list)
    for item in find_videos(videos, mesh):
        if item.split == split:
            found[item.speaker].append(item)
    return found


def crop_file(folder: Path, item: LabeledVideo) -> Path:
    """Where the crops of a video lie."""
    return folder / f"{item.speaker.replace('/', '_')}__{item.name.replace('/', '_')}.npz"


def make_crops(found: dict[str, list[LabeledVideo]], folder: Path, options: PrepareOptions) -> None:
    """Crops the mouths of all videos that have no crops yet; reports unreadable ones on stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(item, len(items[: options.clips])) for items in found.values() for item in items[: options.clips]]
    for item, clips in tqdm(jobs, unit="video", disable=None):
        path = crop_file(folder, item)
        if path.exists():
            continue
        count = max(2 * MIN_FRAMES, options.frames // clips)  # `spread` may choose half as many
        try:
            crops = crop_video(item.video, item.labels, count, options.min_scale)
        except MediaError as error:
            print(f"{display_path(item.video)} skipped: {error}", file=sys.stderr)
            continue
        if crops is not None:
            part = path.with_suffix(".part")
            crops.save(part)
            os.replace(part, path)


def make_samples(folder: Path, out: Path, count: int, seed: int) -> None:
    """Draws and renders samples, as many for each person, and writes OUT.npy and OUT.json.

    Raises:
        UsageError: the folder has no crops of open mouths.
    """
    clips: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.npz")):
        if SampleMaker(MouthCrops.load(path)).openness.max() >= LEAST_OPENING:
            clips[person(path.stem)].append(path)
    if not clips:
        raise UsageError(f"no video is large enough: {display_path(folder)} has no open mouths")
    rng = np.random.default_rng(seed)
    people = list(clips)
    counts = np.bincount(np.arange(count) % len(people), minlength=len(people))
    order, row = rng.permutation(count), 0
    index: list[dict[str, Any]] = [{}] * count
    planes = np.lib.format.open_memmap(
        out.with_suffix(".part"), "w+", np.uint8, (count, sum(PLANES.values()), HEIGHT, WIDTH)
    )
    for name, wanted in tqdm(zip(people, counts, strict=True), total=len(people), unit="person", disable=None):
        makers = [(path.stem, SampleMaker(MouthCrops.load(path))) for path in clips[name]]
        for _ in range(wanted):
            stem, maker, pair = draw(makers, rng)
            planes[order[row]] = maker.render(pair)
            index[order[row]] = {"person": name, "clip": stem, "case": pair.case, "scale": maker.crops.scale}
            row += 1
    planes.flush()
    out.with_suffix(".json").write_text(json.dumps(index) + "\n")
    os.replace(out.with_suffix(".part"), out.with_suffix(".npy"))


def draw(makers: Sequence[tuple[str, SampleMaker]], rng: np.random.Generator) -> tuple[str, SampleMaker, Pair]:
    """Draws the frames of a sample in which a mouth is known; as they are drawn last if that hardly ever happens."""
    for _ in range(TRIES):
        stem, maker = makers[int(rng.integers(len(makers)))]
        pair = maker.draw(rng, str(rng.choice(list(SHARES), p=list(SHARES.values()))))
        if maker.knows_mouth(pair):
            break
    return stem, maker, pair


def prepare(videos: Path, mesh: Path, out: Path, options: PrepareOptions) -> None:
    """Makes crops and samples.

    Raises:
        UsageError: no video has labels, or none is large enough.
    """
    found = {split: find_people(videos, mesh, split) for split in SPLITS}
    found["val"] = {name: jobs for name, jobs in found["val"].items() if name not in found["train"]}
    for split, count in zip(SPLITS, (options.samples, options.validation), strict=True):
        make_crops(found[split], out / "crops" / split, options)
        make_samples(out / "crops" / split, out / split, count, options.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser("wav2lip.renderer.prepare", __doc__)
    for name, what in {"videos": "folder of videos", "mesh": "folder of mesh labels", "out": "output folder"}.items():
        parser.add_argument(name, type=Path, help=what)
    defaults = PrepareOptions()
    for name in ("frames", "samples", "validation", "clips", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    parser.add_argument("--min-scale", type=float, default=defaults.min_scale)
    given = parser.parse_args(argv)

    def job() -> None:
        names = ("frames", "samples", "validation", "min_scale", "clips", "seed")
        options = PrepareOptions(**{name: getattr(given, name) for name in names})
        prepare(given.videos, given.mesh, given.out, options)

    return run_command("wav2lip.renderer.prepare", job)


if __name__ == "__main__":
    sys.exit(main())
