"""Painted mouths of unseen people against what is shown without a painter, and an ablation of the painter's training.

    .venv/bin/python benchmarks/painter.py SAMPLES [--painter NAME=FILE ...] [--sheet FILE] [--neighbors FILE]
    .venv/bin/python benchmarks/painter.py SAMPLES --out FOLDER [--steps 1200] [--seeds 0 1 2] [--only NAME ...]

SAMPLES is a folder of wav2lip.renderer.prepare. Of every video of its split val, the same pairs of frames in each
case; the target frame is the truth. Inside the opening: L1 in levels of 255, the distance of our face encoder's
features, and sharpness (root mean square of the Laplacian) relative to the real mouth; medians of a video, averaged
over the videos. A painter's mouth is mixed as at inference: where a retrieved mouth is seen, that stays.
With --out, every variant is trained with the same samples, seeds, steps and precision; existing ones are only
measured. Painters of one name ("NAME seed 1" is another of NAME) share a row: their mean and its standard deviation
over them. A painter with a code of the person gets 1, 2, 4 and 8 other mouths of the video.
--neighbors draws painted mouths, the real ones, and the training mouths nearest to the painted ones: does it copy?
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from evaluation.metrics.distributions import copied_share, nearest  # noqa: E402
from evaluation.metrics.face_encoder import SIDE, FaceEncoder  # noqa: E402
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER  # noqa: E402
from wav2lip.renderer import train  # noqa: E402
from wav2lip.renderer.inner_mouth import teeth_place, to_mouth_plane  # noqa: E402
from wav2lip.renderer.painter import MouthPainter, load_painter  # noqa: E402
from wav2lip.renderer.painter_inference import SEAM  # noqa: E402
from wav2lip.renderer.painter_inputs import (  # noqa: E402
    ABOVE,
    HEIGHT,
    PLANES,
    WEIGHTS,
    WIDTH,
    from_image,
    mouth_masks,
    paint_region,
    to_crop,
)
from wav2lip.renderer.training.crops import SIDE as STORED  # noqa: E402
from wav2lip.renderer.training.crops import MouthCrops  # noqa: E402
from wav2lip.renderer.training.dataset import MouthSamples  # noqa: E402
from wav2lip.renderer.training.losses import finished  # noqa: E402
from wav2lip.renderer.training.samples import CASES, FAR, Pair, SampleMaker  # noqa: E402

VARIANTS = {
    "no critic": "--critic.objective none",
    "non-saturating, paired": "",
    "lsgan, paired": "--critic.objective lsgan",
    "hinge, paired": "--critic.objective hinge",
    "wgan-gp": "--critic.objective wgan-gp --critic.paired false --critic.r1 0 --critic.steps 1",
    "non-saturating": "--critic.paired false",
    "without mismatched shapes": "--critic.mismatched 0",
    "projection critic": "--critic.projection true",
    "batch deviation": "--critic.batch_deviation true",
    "content": "--weights.content 0.5",
    "growing": "--growing 0.3",
    "person code": "--network.code 32",
}
PRECISION = "--precision 32-true"  # rows made on different machines are to be comparable
SEED = r" seed \d+"
SHARES = (0.42, 0.08, 0.3, 0.2)  # how often each of CASES is drawn
OTHERS = (1, 2, 4, 8)  # mouths for a code of the person
TRAINING_MOUTHS = 2000  # among which neighbors are looked for
RINGS = (LIPS_INNER, LIPS_OUTER)
MIN_OPENING = 1.5  # units; mouths that are less open show nothing
Images = dict[str, np.ndarray]  # name: (H, W, 3 or 1) float32 levels


def draw_pairs(maker: SampleMaker, count: int, rng: np.random.Generator) -> Iterator[Pair]:
    """`count` pairs of each case whose target is open, if the video has as many."""
    missing = dict.fromkeys(CASES, count)
    for _ in range(200 * count):
        pair = maker.draw(rng, str(rng.choice(CASES, p=SHARES)))
        known = pair.case == "photo" or maker.knows_mouth(pair)
        if missing[pair.case] and known and maker.openness[pair.target] >= MIN_OPENING:
            missing[pair.case] -= 1
            yield pair


def unstack(sample: np.ndarray) -> Images:
    """The planes of a sample by name."""
    parts = np.split(sample, np.cumsum(list(PLANES.values()))[:-1])
    return {name: part.transpose(1, 2, 0).astype(np.float32) for name, part in zip(PLANES, parts, strict=True)}


def corner(maker: SampleMaker, source: int) -> tuple[int, int]:
    """Left and top of a source frame's crop in the stored images."""
    first = np.round(to_crop(maker.plane, teeth_place(maker.rings[source]))[:, 2])
    left, top = np.clip(first, 0, (STORED - WIDTH, STORED - HEIGHT)).astype(int).tolist()
    return left, top


def other_mouths(maker: SampleMaker, pair: Pair, count: int) -> torch.Tensor:
    """(1, count, 4, HEIGHT, WIDTH) mouths and openings of frames that are not near the target, see `PersonEncoder`."""
    apart = np.flatnonzero(np.abs(maker.crops.times - maker.crops.times[pair.target]) > FAR)
    left, top = corner(maker, pair.source)
    origin = to_mouth_plane(np.array([left + (WIDTH - 1) / 2, top + ABOVE]), maker.plane)
    mouths = []
    for index in np.random.default_rng(pair.target).choice(apart if len(apart) else [pair.source], count):
        image = maker.crops.images[index][top : top + HEIGHT, left : left + WIDTH].astype(np.float32) / 255
        rings = (from_image(maker.shapes[index][ring, :2], to_crop(maker.plane, origin)) for ring in RINGS)
        mouths.append(np.concatenate([image, mouth_masks(*rings)[0][..., None]], axis=2).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(mouths))[None]


def nearest_frame(maker: SampleMaker, pair: Pair) -> np.ndarray:
    """The crop of the known frame whose lips are most like the target's."""
    known = [*pair.bank, pair.source]
    best = min(known, key=lambda index: float(np.abs(maker.rings[index] - maker.rings[pair.target]).mean()))
    left, top = corner(maker, pair.source)
    return maker.crops.images[best][top : top + HEIGHT, left : left + WIDTH].astype(np.float32)


@torch.inference_mode()
def painted(painter: MouthPainter, planes: Images, others: torch.Tensor | None = None) -> np.ndarray:
    """The composite with the painter's mouth in it, as at inference."""
    inputs = {name: torch.from_numpy(plane / 255).permute(2, 0, 1)[None] for name, plane in planes.items()}
    if others is not None:
        inputs["others"] = others
    image = painter(inputs).image[0].permute(1, 2, 0).numpy() * 255
    kept = cv2.GaussianBlur(planes["retrieved"] / 255, (0, 0), SEAM)
    region = paint_region(planes["inner"][..., 0] / 255) * (1 - kept)
    return planes["composite"] + region[..., None] * (image - planes["composite"])


def shown(maker: SampleMaker, pair: Pair, painters: dict[str, MouthPainter]) -> tuple[Images, Images]:
    """What every system shows, and the planes."""
    planes = unstack(maker.render(pair))
    if pair.case == "photo":
        images = {
            "dark fill": unstack(maker.render(pair, teeth=False))["composite"],
            "drawn teeth": planes["composite"],
        }
        return images, planes
    images = {"nearest frame": nearest_frame(maker, pair), "retrieval": planes["composite"]}
    for name, painter in painters.items():
        if painter.person is None:
            images[name] = painted(painter, planes)
            continue
        for count in OTHERS:
            images[f"{name}, {count} mouths"] = painted(painter, planes, other_mouths(maker, pair, count))
    return images, planes


def sharpness(image: np.ndarray, inner: np.ndarray) -> float:
    """Root mean square of the gray image's Laplacian inside a mask."""
    edges = cv2.Laplacian(image.mean(axis=2), cv2.CV_32F)
    return float(np.sqrt((edges**2 * inner).sum() / (inner.sum() + 1)))


def mouth_features(encoder: FaceEncoder, images: Sequence[np.ndarray]) -> np.ndarray:
    """(N, D) features of the middle of (HEIGHT, WIDTH, 3) crops."""
    left = (WIDTH - HEIGHT) // 2
    squares = [cv2.resize(image[:, left : left + HEIGHT].astype(np.uint8), (SIDE, SIDE)) for image in images]
    return encoder.features(np.stack(squares))


class Table:
    """Figures by case and system."""

    def __init__(self) -> None:
        self.encoder = FaceEncoder.load()
        self.figures: dict[tuple[str, str], dict[int, list[tuple[float, float, float]]]] = defaultdict(dict)

    def add(self, case: str, name: str, video: int, image: np.ndarray, planes: Images) -> None:
        """Measures one image against the target."""
        inner, target = planes["inner"][..., 0] / 255, planes["target"]
        image = np.clip(target + inner[..., None] * (image - target), 0, 255)
        error = float((np.abs(image - target).mean(axis=2) * inner).sum() / (inner.sum() + 1))
        ours, real = mouth_features(self.encoder, [image, target])
        sharp = sharpness(image, inner) / (sharpness(target, inner) + 1)
        row = error, float(np.linalg.norm(ours - real)), sharp
        self.figures[case, name].setdefault(video, []).append(row)

    def print(self) -> None:
        """Prints the table in Markdown."""
        print("| case | shown | L1 | encoder | sharpness |\n|---|---|---|---|---|")
        rows: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        for (case, name), videos in self.figures.items():
            medians = [np.median(found, axis=0) for found in videos.values()]
            rows[case, re.sub(SEED, "", name)].append(np.mean(medians, axis=0))
        for case, name in sorted(rows, key=lambda key: CASES.index(key[0])):
            columns = zip(zip(*rows[case, name], strict=True), (1, 2, 2), strict=True)
            cells = [mean_and_deviation(column, digits) for column, digits in columns]
            print(f"| {case} | {name} | {' | '.join(cells)} |")


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """The mean of one or more values and, of several, their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def train_variants(samples: Path, out: Path, steps: int, names: list[str], seeds: list[int]) -> dict[str, MouthPainter]:
    """Trains the variants that are missing and loads all."""
    painters = {}
    for name, seed in itertools.product(names, seeds):
        folder = out / f"{name.replace(' ', '-').replace(',', '')}-seed{seed}"
        path = folder / "renderer.safetensors"
        flags = f"--steps {steps} --validate_every {steps} --log_every 100 --seed {seed} {PRECISION} {VARIANTS[name]}"
        if not path.is_file() and train.main([str(samples), "--out", str(folder), *flags.split()]):
            print(f"{name}, seed {seed}, failed", file=sys.stderr)
            continue
        painters[f"{name} seed {seed}"] = load_painter(path)
    return painters


def measure(samples: Path, painters: dict[str, MouthPainter], count: int, sheet: Path | None) -> Table:
    """Measures painters on all val videos; `sheet` gets the first pair of every video and case, the target last."""
    table, columns = Table(), defaultdict(list)
    for video, path in enumerate(sorted((samples / "crops" / "val").glob("*.npz"))):
        maker, seen = SampleMaker(MouthCrops.load(path)), set()
        for pair in draw_pairs(maker, count, np.random.default_rng(video)):
            images, planes = shown(maker, pair, painters)
            for name, image in images.items():
                table.add(pair.case, name, video, image, planes)
            if pair.case not in seen:
                columns[pair.case].append(np.vstack([planes["source"], *images.values(), planes["target"]]))
            seen.add(pair.case)
    if sheet is not None:
        rows = [np.hstack(columns[case]) for case in CASES if columns[case]]
        width = max(row.shape[1] for row in rows)
        picture = np.vstack([np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in rows])
        zoomed = cv2.resize(picture.clip(0, 255).astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(sheet), zoomed)
    return table


def draw_neighbors(samples: Path, painter: MouthPainter, sheet: Path, count: int = 12) -> None:
    """Draws painted mouths, the real ones and the three nearest training mouths; prints how near they are."""
    encoder, rng = FaceEncoder.load(), np.random.default_rng(0)
    seen, held_out = MouthSamples.open(samples / "train"), MouthSamples.open(samples / "val")
    planes = held_out.batch(np.flatnonzero(held_out.cases == "poor"))
    images = {"painted": finished(painter(planes), planes).detach(), "real": planes["target"]}
    made, real = (list(x.clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255) for x in images.values())
    chosen = np.sort(rng.choice(len(seen), min(TRAINING_MOUTHS, len(seen)), replace=False))
    known = [sample[:3].transpose(1, 2, 0) for sample in seen.planes[chosen]]
    training, ours, theirs = (mouth_features(encoder, each) for each in (known, made, real))
    found, distances = nearest(ours, training, 3)
    print(f"{len(made)} painted mouths, median distance to the nearest of {len(known)} training mouths:")
    print(f"painted {np.median(distances[:, 0]):.2f}, real {np.median(nearest(theirs, training)[1]):.2f};", end=" ")
    print(f"share nearer than 95 % of the real ones: {copied_share(ours, theirs, training):.2f}")
    rows = np.linspace(0, len(made) - 1, min(count, len(made))).astype(int)
    columns = [np.vstack([made[row], real[row], *(known[index] for index in found[row])]) for row in rows]
    picture = np.hstack(columns).astype(np.uint8)
    cv2.imwrite(str(sheet), cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))


def named_path(given: str) -> tuple[str, Path]:
    """NAME=FILE."""
    name, _, path = given.partition("=")
    return name, Path(path)


def main() -> None:
    """Trains what is asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--painter", type=named_path, nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, help="train the variants here")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--count", type=int, default=3, help="pairs of each case and video")
    parser.add_argument("--sheet", type=Path, help="picture of some pairs")
    parser.add_argument("--neighbors", type=Path, help="picture of painted mouths beside training mouths")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.out:
        painters = train_variants(args.samples, args.out, args.steps, args.only, args.seeds)
    else:
        painters = {name: load_painter(path) for name, path in args.painter or [("bundled", WEIGHTS)]}
    measure(args.samples, painters, args.count, args.sheet).print()
    if args.neighbors:
        draw_neighbors(args.samples, next(iter(painters.values())), args.neighbors)


if __name__ == "__main__":
    main()
