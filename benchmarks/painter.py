"""Painted mouths of unseen people against what is shown without a painter, and an ablation of the painter's training.

    .venv/bin/python benchmarks/painter.py SAMPLES [--painter NAME=FILE ...] [--sheet FILE]
    .venv/bin/python benchmarks/painter.py SAMPLES --out FOLDER [--steps 1200] [--only NAME ...]

SAMPLES is a folder of wav2lip.renderer.prepare. Of every video of its split val, the same pairs of frames in each
case; the target frame is the truth. Inside the opening: L1 in levels of 255, the distance of our face encoder's
features, and sharpness (root mean square of the Laplacian) relative to the real mouth; medians of a video, averaged
over the videos. A painter's mouth is mixed as at inference: where a retrieved mouth is seen, that stays.
With --out, every variant is trained with the same samples and seed for as many steps; existing ones are only
measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from evaluation.metrics.face_encoder import SIDE, FaceEncoder  # noqa: E402
from wav2lip.renderer import train  # noqa: E402
from wav2lip.renderer.inner_mouth import teeth_place  # noqa: E402
from wav2lip.renderer.painter import MouthPainter, load_painter  # noqa: E402
from wav2lip.renderer.painter_inference import SEAM  # noqa: E402
from wav2lip.renderer.painter_inputs import HEIGHT, PLANES, WEIGHTS, WIDTH, paint_region, to_crop  # noqa: E402
from wav2lip.renderer.training.crops import SIDE as STORED  # noqa: E402
from wav2lip.renderer.training.crops import MouthCrops  # noqa: E402
from wav2lip.renderer.training.samples import CASES, Pair, SampleMaker  # noqa: E402

VARIANTS = {
    "no critic": "--critic.objective none",
    "non-saturating, paired": "",
    "lsgan, paired": "--critic.objective lsgan",
    "hinge, paired": "--critic.objective hinge",
    "wgan-gp": "--critic.objective wgan-gp --critic.paired false --critic.r1 0 --critic.steps 1",
    "non-saturating": "--critic.paired false",
    "without mismatched shapes": "--critic.mismatched 0",
}
MIN_OPENING = 1.5  # units; mouths that are less open show nothing
Images = dict[str, np.ndarray]  # name: (H, W, 3 or 1) float32 levels


def draw_pairs(maker: SampleMaker, count: int, rng: np.random.Generator) -> Iterator[Pair]:
    """`count` pairs of each case whose target is open, if the video has as many."""
    missing = dict.fromkeys(CASES, count)
    for _ in range(200 * count):
        pair = maker.draw(rng)
        if missing[pair.case] and maker.openness[pair.target] >= MIN_OPENING:
            missing[pair.case] -= 1
            yield pair


def unstack(sample: np.ndarray) -> Images:
    """The planes of a sample by name."""
    parts = np.split(sample, np.cumsum(list(PLANES.values()))[:-1])
    return {name: part.transpose(1, 2, 0).astype(np.float32) for name, part in zip(PLANES, parts, strict=True)}


def nearest_frame(maker: SampleMaker, pair: Pair) -> np.ndarray:
    """The crop of the known frame whose lips are most like the target's."""
    known = [*pair.bank, pair.source]
    best = min(known, key=lambda index: float(np.abs(maker.rings[index] - maker.rings[pair.target]).mean()))
    first = np.round(to_crop(maker.plane, teeth_place(maker.rings[pair.source]))[:, 2])
    left, top = np.clip(first, 0, (STORED - WIDTH, STORED - HEIGHT)).astype(int)
    return maker.crops.images[best][top : top + HEIGHT, left : left + WIDTH].astype(np.float32)


@torch.inference_mode()
def painted(painter: MouthPainter, planes: Images) -> np.ndarray:
    """The composite with the painter's mouth in it, as at inference."""
    inputs = {name: torch.from_numpy(plane / 255).permute(2, 0, 1)[None] for name, plane in planes.items()}
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
    else:
        images = {"nearest frame": nearest_frame(maker, pair), "retrieval": planes["composite"]}
    return images | {name: painted(painter, planes) for name, painter in painters.items()}, planes


def sharpness(image: np.ndarray, inner: np.ndarray) -> float:
    """Root mean square of the gray image's Laplacian inside a mask."""
    edges = cv2.Laplacian(image.mean(axis=2), cv2.CV_32F)
    return float(np.sqrt((edges**2 * inner).sum() / (inner.sum() + 1)))


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
        left = (WIDTH - HEIGHT) // 2
        faces = [cv2.resize(x[:, left : left + HEIGHT].astype(np.uint8), (SIDE, SIDE)) for x in (image, target)]
        ours, real = self.encoder.features(np.stack(faces))
        sharp = sharpness(image, inner) / (sharpness(target, inner) + 1)
        row = error, float(np.linalg.norm(ours - real)), sharp
        self.figures[case, name].setdefault(video, []).append(row)

    def print(self) -> None:
        """Prints the table in Markdown."""
        print("| case | shown | L1 | encoder | sharpness |\n|---|---|---|---|---|")
        for case, name in sorted(self.figures, key=lambda key: CASES.index(key[0])):
            medians = [np.median(rows, axis=0) for rows in self.figures[case, name].values()]
            error, distance, sharp = np.mean(medians, axis=0)
            print(f"| {case} | {name} | {error:.1f} | {distance:.2f} | {sharp:.2f} |")


def train_variants(samples: Path, out: Path, steps: int, names: list[str]) -> dict[str, MouthPainter]:
    """Trains the variants that are missing and loads all."""
    painters = {}
    for name in names:
        folder = out / name.replace(" ", "-").replace(",", "")
        path = folder / "renderer.safetensors"
        flags = f"--steps {steps} --validate_every {steps} --log_every 100 {VARIANTS[name]}"
        if not path.is_file() and train.main([str(samples), "--out", str(folder), *flags.split()]):
            print(f"{name} failed", file=sys.stderr)
            continue
        painters[name] = load_painter(path)
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
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--count", type=int, default=3, help="pairs of each case and video")
    parser.add_argument("--sheet", type=Path, help="picture of some pairs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.out:
        painters = train_variants(args.samples, args.out, args.steps, args.only)
    else:
        painters = {name: load_painter(path) for name, path in args.painter or [("bundled", WEIGHTS)]}
    measure(args.samples, painters, args.count, args.sheet).print()


if __name__ == "__main__":
    main()
