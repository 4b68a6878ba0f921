"""Ablation: the effect of each loss, reference sampling and adversarial objective on the same short training run.

    .venv/bin/python benchmarks/ablation.py CLIPS --init GENERATOR --out FOLDER [--steps 200] [--only NAME ...]

All variants start from the same weights and see the same windows; each differs from the first row as its name says.
Measured on one window per held-out clip, see `wav2lip.generator.validation`: L1 of the masked rows (x 1000), PSNR of
the mouth, the judge's cosine with own and with other audio (real mouths in the last rows), mouth sharpness (variance of
the Laplacian, relative to the real mouth) and flicker (mean error of the frame-to-frame change, levels of 255).
Variants that already exist in FOLDER are measured again but not retrained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.dataset.windows import open_splits  # noqa: E402
from syncnet.data import WINDOW  # noqa: E402
from syncnet.sync_expert import JUDGE, SyncExpert  # noqa: E402
from wav2lip import train  # noqa: E402
from wav2lip.generator.checkpoints import load_generator  # noqa: E402
from wav2lip.generator.data import GeneratorBatch, collate  # noqa: E402
from wav2lip.generator.model import Generator  # noqa: E402
from wav2lip.generator.validation import MOUTH, HeldOutEvaluation  # noqa: E402

BASE = (
    "--lr 5e-4 --schedule constant --warmup_steps 30 --ema 0.98 --windows_per_step 2 --sync_start 0 --sync_ramp 0 "
    "--weights.sync 0.03 --log_every 50 "
    "--grid_every 100000 --validate_every 100000 --save_every 100000"
)
SPECTRAL = "--adversary.critic patch --adversary.region whole --weights.adversarial 0.3"  # spectral norm is the default
PATCH = f"{SPECTRAL} --adversary.spectral false --adversary.lr 5e-4 --adversary.r1 1"
VARIANTS = {
    "all": "",
    "without sync": "--weights.sync 0",
    "without gradient": "--weights.gradient 0",
    "l1 alone": "--weights.sync 0 --weights.gradient 0",
    "with laplacian 1": "--weights.laplacian 1",
    "with temporal 1": "--weights.temporal 1",
    "sync 0.1": "--weights.sync 0.1",
    "sync bce 0.03": "--sync bce",
    "sync relative 0.003": "--sync relative --weights.sync 0.003",
    "references at random": "--sampling.reference random",
    "references that stand": "--sampling.moving 0",
    "no silence": "--sampling.silent 0",
    "non-saturating": f"{PATCH} --adversary.objective non-saturating",
    "lsgan": f"{PATCH} --adversary.objective lsgan",
    "hinge": f"{PATCH} --adversary.objective hinge",
    "wgan-gp": f"{PATCH} --adversary.objective wgan-gp --adversary.r1 0 --adversary.critic_steps 1",
    "hinge, spectral norm": f"{SPECTRAL} --adversary.objective hinge",
    "hinge, spectral norm, matching 1": f"{SPECTRAL} --adversary.objective hinge --weights.feature_matching 1",
    "hinge, clip critic": f"{PATCH} --adversary.objective hinge --adversary.critic clip",
    "hinge, unrolled 2": f"{PATCH} --adversary.objective hinge --adversary.unroll 2",
    "began": f"{PATCH} --adversary.objective began --adversary.r1 0 --adversary.critic autoencoder",
}  # fmt: skip


def sharpness(faces: Tensor) -> Tensor:
    """Variance of the Laplacian of the gray mouths of (N, 3, S, S) crops in [0, 1]: (N,)."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return F.conv2d(mouth(faces).mean(1, keepdim=True), kernel).flatten(1).var(1)


def mouth(faces: Tensor) -> Tensor:
    """The mouth square of (N, 3, S, S) crops."""
    top, bottom, left, right = (round(share * faces.shape[-1]) for share in MOUTH)
    return faces[..., top:bottom, left:right]


def flicker(made: Tensor, real: Tensor) -> Tensor:
    """Mean error of the mouth's frame-to-frame change, (5 B, 3, S, S) to (B,), in levels of 255."""
    error = mouth(made - real).unflatten(0, (-1, WINDOW))
    return 255 * (error[:, 1:] - error[:, :-1]).abs().flatten(1).mean(1)


@torch.inference_mode()
def image_metrics(model: Generator, batch: GeneratorBatch) -> tuple[np.ndarray, np.ndarray]:
    """Sharpness relative to the real mouths, (5 B,), and flicker, (B,)."""
    made = model(batch.mels, batch.faces)
    share = sharpness(made) / sharpness(batch.target).clamp_min(1e-8)
    return share.numpy(), flicker(made, batch.target).numpy()


def row(name: str, evaluation: HeldOutEvaluation, path: Path) -> str:
    """A line of the table."""
    model = load_generator(path)[0]
    values = evaluation.measure(model)
    found = [image_metrics(model, collate([window], evaluation.config.mask_row)) for window in evaluation.windows]
    sharp, flickering = np.median(np.concatenate([x for x, _ in found])), np.mean(np.concatenate([x for _, x in found]))
    cells = [f"{1000 * values['l1']:.2f}", f"{values['psnr']:.2f}", f"{values['judge_own']:.3f}"]
    cells += [f"{values['judge_swapped']:.3f}", f"{sharp:.2f}", f"{flickering:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Train missing variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--val", type=Path, help="clips of other people (default: the split val of CLIPS)")
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    held_out = open_splits(args.clips, args.val, 3 * WINDOW)[1]
    evaluation = HeldOutEvaluation(held_out, load_generator(args.init)[0].config, SyncExpert.load(JUDGE))
    print(
        "| variant | L1 x 1000 | PSNR | judge, own | judge, other | sharpness | flicker |"
        "\n|---|---|---|---|---|---|---|"
    )
    print(row("(initial weights)", evaluation, args.init), flush=True)
    for name in args.only:
        folder = args.out / name.replace(" ", "-")
        path = folder / "generator.safetensors"
        if not path.is_file():
            flags = f"{BASE} {VARIANTS[name]} --steps {args.steps}".split()
            val = ["--val", str(args.val)] if args.val else []
            job = [str(args.clips), "--out", str(folder), "--init", str(args.init), *val, *flags]
            if code := train.main(job):
                print(f"| {name} | failed (exit code {code}) |", flush=True)
                continue
        print(row(name, evaluation, path), flush=True)
    values = evaluation.measure(load_generator(args.init)[0])
    print(f"| (real mouths) | 0 | | {values['judge_real']:.3f} | | 1 | 0 |")
    print(f"| (the reference) | {1000 * values['copy']:.2f} | | {values['judge_still']:.3f} | | | |")


if __name__ == "__main__":
    main()
