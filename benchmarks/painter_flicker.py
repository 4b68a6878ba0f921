"""How much painted mouths of unseen people flicker, against real ones.

    .venv/bin/python benchmarks/painter_flicker.py VIDEOS LABELS SAMPLES [--painter NAME=FILE ...] [--sheets FOLDER]

VIDEOS and LABELS are those from which wav2lip.renderer.prepare made SAMPLES. From every video of its split val, up to
three runs of eight consecutive frames with an open mouth. A frame of closed lips is opened like each of them, with
nothing else known, as a photo, or with a few mouths known that are at most half as open. Flicker is the second
difference in time |before - 2 now + after| of the pixels that lie inside the opening in all three frames, in levels of
255: 0 for what stands still or moves evenly. L1, the encoder's distance and sharpness are those of
benchmarks/painter.py, of the last frame of a run. Figures are means over videos; painters of one name ("NAME seed 1" is
another of NAME) share a row.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.painter import (  # noqa: E402
    SEED,
    Images,
    Table,
    mean_and_deviation,
    named_path,
    other_mouths,
    painted,
    unstack,
)
from preprocessing.faces.landmarks.training.labels import LabeledVideo, load_labels  # noqa: E402
from preprocessing.faces.mesh import HeadPose, opening  # noqa: E402
from wav2lip.renderer.inner_mouth import HARDLY_OPEN  # noqa: E402
from wav2lip.renderer.painter import MouthPainter, load_painter  # noqa: E402
from wav2lip.renderer.prepare import crop_file, find_people  # noqa: E402
from wav2lip.renderer.training.crops import MouthCrops, crop_frames, usable_frames  # noqa: E402
from wav2lip.renderer.training.samples import ANGLE, CLOSED, FAR, POOR_OPENING, Pair, SampleMaker  # noqa: E402

LENGTH, RUNS = 8, 3  # frames of a run, runs of a video
POOR_BANK = 5  # mouths known
OPEN = 1.5  # units; least mean opening of a run
SURE = 0.8  # opacity of the opening from which a pixel is inside
LEAST_AREA = 60  # pixels inside, over a run; less is not measured


def open_runs(points: np.ndarray, usable: np.ndarray, length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(≤ count, length) frames of runs that are open and do not overlap, wide ones more likely.

    Args:
        points: (T, 206, 3) mesh points, pixels.
        usable: (n,) frames that may be used.
        length: frames of a run.
        count: most runs.
        rng: decides among runs of like openings.
    """
    good, gaps = np.zeros(len(points), bool), np.zeros(len(points))
    good[usable] = True
    gaps[usable] = opening(HeadPose.of(points[usable]).unpose(points[usable]))
    windows = np.arange(max(0, len(points) - length + 1))[:, None] + np.arange(length)
    windows = windows[good[windows].all(axis=1) & (gaps[windows].mean(axis=1) > OPEN)]
    chosen: list[np.ndarray] = []
    for window in windows[np.argsort(rng.exponential(OPEN, len(windows)) - gaps[windows].mean(axis=1))]:
        if len(chosen) < count and all(abs(window[0] - other[0]) >= length for other in chosen):
            chosen.append(window)
    return np.array(chosen, int).reshape(-1, length)


def with_runs(
    item: LabeledVideo, known: MouthCrops, length: int, count: int, rng: np.random.Generator
) -> tuple[MouthCrops, np.ndarray]:
    """The crops of a video with those of some runs behind them, and the runs' (N, length) indices.

    Raises:
        MediaError: the video or its labels cannot be read.
    """
    labels = load_labels(item.labels)
    runs = open_runs(labels.points, usable_frames(item.video, labels), length, count, rng)
    numbers = np.unique(runs)
    found = crop_frames(item.video, labels, numbers) if len(numbers) else None
    if found is None or len(found.images) < len(numbers):
        return known, np.zeros((0, length), int)
    images, points, angles, times = (
        np.concatenate([getattr(known, name), getattr(found, name)]) for name in ("images", "points", "angles", "times")
    )
    joined = MouthCrops(images, points, angles, times, known.scale)
    return joined, len(known.images) + np.searchsorted(numbers, runs)


def closed_frame(maker: SampleMaker, count: int, target: int, rng: np.random.Generator) -> int:
    """One of the first `count` frames with closed lips and nearly the target's head pose, as a photo."""
    turned = np.linalg.norm(maker.crops.angles[:count] - maker.crops.angles[target], axis=1)
    near = np.flatnonzero(turned <= max(ANGLE, turned.min()))
    closed = near[maker.openness[near] < CLOSED]
    return int(rng.choice(closed) if len(closed) else near[maker.openness[near].argmin()])


def poor_bank(maker: SampleMaker, count: int, run: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
    """A few of the first `count` frames, not near the run, with mouths that are open, but at most half as far."""
    apart = np.abs(maker.crops.times[:count, None] - maker.crops.times[run]).min(axis=1) > FAR
    opened = maker.openness[:count]
    few = np.flatnonzero(apart & (opened >= HARDLY_OPEN) & (opened < POOR_OPENING * maker.openness.max()))
    return tuple(rng.permutation(few)[:POOR_BANK].tolist())


def shown_runs(
    maker: SampleMaker, run: np.ndarray, pair: Pair, painters: dict[str, MouthPainter]
) -> Iterator[tuple[Images, Images]]:
    """What every system shows in the frames of a run, and the planes; `pair` has source and bank."""
    for target in run.tolist():
        photo = unstack(maker.render(replace(pair, target=target, bank=())))
        planes = unstack(maker.render(replace(pair, target=target)))
        images = {"photo, drawn teeth": photo["composite"], "retrieval": planes["composite"]}
        for name, painter in painters.items():
            others = other_mouths(maker, pair, 1) if painter.person else None
            images[name] = painted(painter, planes, others)
        inside = planes["inner"] / 255
        real = planes["target"]
        shown = {name: np.clip(real + inside * (image - real), 0, 255) for name, image in images.items()}
        yield shown | {"real": real}, planes


def flicker(images: np.ndarray, inner: np.ndarray) -> float:
    """Second difference in time where the mouth is open in three successive frames; NaN if that is hardly anywhere.

    Args:
        images: (T, H, W, 3) levels.
        inner: (T, H, W) opacity of the opening, 0 to 1.
    """
    inside = np.minimum(np.minimum(inner[:-2], inner[1:-1]), inner[2:]) > SURE
    jumps = np.abs(images[:-2] - 2 * images[1:-1] + images[2:]).mean(axis=-1)
    return float(jumps[inside].mean()) if inside.sum() >= LEAST_AREA else float("nan")


def measure(
    folders: tuple[Path, Path, Path], painters: dict[str, MouthPainter], sheets: Path | None
) -> tuple[dict[str, list[float]], Table]:
    """Flicker of every video by system, and the figures of the last frames; sheets get a row of frames a system."""
    videos, labels, samples = folders
    found: dict[str, list[float]] = defaultdict(list)
    table, rng = Table(), np.random.default_rng(0)
    items = [item for of_person in find_people(videos, labels, "val").values() for item in of_person]
    for number, item in enumerate(items):
        path = crop_file(samples / "crops" / "val", item)
        if not path.is_file():
            continue
        known = MouthCrops.load(path)
        joined, runs = with_runs(item, known, LENGTH, RUNS, rng)
        maker, of_video = SampleMaker(joined), defaultdict(list)
        for run in runs:
            middle = int(run[LENGTH // 2])
            source = closed_frame(maker, len(known.images), middle, rng)
            pair = Pair("poor", source, middle, poor_bank(maker, len(known.images), run, rng))
            if not maker.knows_mouth(pair):
                continue
            frames, planes = zip(*shown_runs(maker, run, pair, painters), strict=True)
            inner = np.stack([plane["inner"][..., 0] / 255 for plane in planes])
            for name in frames[0]:
                of_video[name].append(flicker(np.stack([frame[name] for frame in frames]), inner))
                if name != "real":
                    table.add("poor", name, number, frames[-1][name], planes[-1])
            if sheets and run[0] == runs[0, 0]:
                rows = [np.hstack([frame[name] for frame in frames]) for name in frames[0]]
                cv2.imwrite(str(sheets / f"{item.name.replace('/', '_')}.png"), np.vstack(rows))
        for name, values in of_video.items():
            if np.isfinite(values).any():
                found[name].append(float(np.nanmean(values)))
    return found, table


def print_flicker(found: dict[str, list[float]]) -> None:
    """Prints the table in Markdown."""
    rows = defaultdict(list)
    for name, values in found.items():
        relative = np.divide(values, found["real"])
        rows[re.sub(SEED, "", name)].append((np.mean(values), np.mean(relative)))
    print(f"{len(found['real'])} videos\n\n| shown | flicker | of the real mouth's |\n|---|---|---|")
    for name, figures in rows.items():
        levels, relative = zip(*figures, strict=True)
        print(f"| {name} | {mean_and_deviation(levels, 1)} | {mean_and_deviation(relative, 2)} |")


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("videos", "labels", "samples"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--painter", type=named_path, nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--sheets", type=Path, help="folder of pictures, one row of consecutive frames a system")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.sheets:
        args.sheets.mkdir(parents=True, exist_ok=True)
    painters = {"bundled": load_painter()} | {name: load_painter(path) for name, path in args.painter}
    found, table = measure((args.videos, args.labels, args.samples), painters, args.sheets)
    print_flicker(found)
    print()
    table.print()


if __name__ == "__main__":
    main()
