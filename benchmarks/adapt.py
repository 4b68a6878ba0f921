"""Effect of personal adaptation: trained on the first half of a video, measured on the second.

`python -m benchmarks.adapt VIDEO ... [--steps 100 200]` prints a Markdown table of the generator before and after.
Five-frame windows of the second half are generated from one frame of similar pose elsewhere in that half, with their
own audio and with that of the next video. The judge is not the expert used in the sync loss.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.speaking import Footage, Model, mel_inputs
from evaluation.metrics import image_quality
from evaluation.metrics.image_quality import MASK_TOP, MOUTH, crop_box
from evaluation.metrics.statistics import bootstrap
from evaluation.metrics.sync import crop_region
from preprocessing.dataset.clips import Clip
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.video_reader import probe
from syncnet.data import WINDOW
from syncnet.sync_expert import JUDGE, SyncExpert
from wav2lip.adapt.command import RATE, STEPS, adapt
from wav2lip.adapt.person_clips import VideoPart, make_person_clips, repaired
from wav2lip.generator.reference_sampling import reference_frames

STRIDE = 10  # frames between measured windows
FIGURES = ("l1", "psnr", "own", "other")
SHEET_FRAMES = 6  # frames of each video on the contact sheet


def halves(path: Path) -> tuple[VideoPart, VideoPart]:
    """The training and the test part of a video: at most its first 30 s, and as much after that."""
    half = min(probe(path).duration / 2, 30.0)
    return VideoPart(end=half), VideoPart(start=half, end=2 * half)


def held_out(path: Path, folder: Path, detector: FaceDetector) -> Clip:
    """The longest clip of the second half, with its AV offset corrected."""
    clips = make_person_clips(path, folder, halves(path)[1], detector)
    return max(repaired(path, clips, SyncExpert.load())[0], key=lambda clip: clip.frames)


def measure(model: Model, clip: Clip, other: Clip, judge: SyncExpert) -> np.ndarray:
    """(W, 4) metrics of a clip's windows: L1 and PSNR of the mouth, judge's cosine with own and with other audio."""
    footage, rows = Footage(clip), []
    last = min(clip.frames, other.frames) - WINDOW
    for first in range(1, last, STRIDE):
        frames = np.arange(first, first + WINDOW)
        reference, _ = reference_frames(clip, first, MASK_TOP, np.random.default_rng((7, first)))
        real, near = crop_box(footage.faces()[frames], MOUTH), []
        for driving in (clip, other):
            made = model.reconstruct(footage, frames, reference, mel_inputs(driving, frames))
            video = judge.embed_mouths(crop_region(made, judge.region))
            near.append((made, float((video * judge.embed_speech(driving.mel, frames[:1])).sum())))
        mouth = crop_box(near[0][0], MOUTH)
        rows.append((image_quality.l1_distance(mouth, real), image_quality.psnr(mouth, real), near[0][1], near[1][1]))
    return np.array(rows)


def line(video: str, system: str, rows: np.ndarray, before: np.ndarray) -> str:
    """A row of the table, with the 95 % interval of the paired change in L1."""
    l1, psnr, own, other = rows.mean(0)
    low, high = bootstrap(rows[:, 0] - before[:, 0])
    change = "" if rows is before else f"{low:+.4f} to {high:+.4f}"
    return f"| {video} | {system} | {len(rows)} | {l1:.4f} | {psnr:.2f} | {own:.3f} | {other:.3f} | {change} |"


def sheet(models: Sequence[Model], clip: Clip) -> np.ndarray:
    """A contact sheet: each column shows a real frame and, below it, each model's output from another frame."""
    footage, columns = Footage(clip), []
    for first in np.linspace(1, clip.frames - WINDOW - 1, SHEET_FRAMES).astype(int):
        frames = np.arange(first, first + WINDOW)
        reference, _ = reference_frames(clip, int(first), MASK_TOP, np.random.default_rng((7, int(first))))
        made = [model.reconstruct(footage, frames, reference, mel_inputs(clip, frames))[2] for model in models]
        columns.append(np.vstack([footage.faces()[first + 2], *made]))
    return np.hstack(columns)


def main(argv: Sequence[str] | None = None) -> None:
    """Adapt and measure; see --help."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--steps", type=int, nargs="+", default=[STEPS])
    p.add_argument("--lr", type=float, nargs="+", default=[RATE])
    p.add_argument("--yunet", type=Path)
    p.add_argument("--json", type=Path, help="also write the metrics of every window")
    p.add_argument("--sheet", type=Path, help="also write a contact sheet of real, before and after")
    args = p.parse_args(argv)
    detector, judge = load_detector(yunet=args.yunet), SyncExpert.load(JUDGE)
    settings = [(steps, lr) for steps in args.steps for lr in args.lr]
    sheets, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        clips = [held_out(path, Path(folder) / str(index), detector) for index, path in enumerate(args.videos)]
        print("| video | generator | windows | L1 mouth | PSNR mouth | judge, own audio | other audio | change in L1 |")
        print("|---|---|---|---|---|---|---|---|")
        for index, path in enumerate(args.videos):
            models = {"before": Model.load(args.checkpoint)}
            for steps, lr in settings:
                models[f"{steps} steps, {lr:g}"] = _adapted(path, Path(folder), args.checkpoint, steps, lr, detector)
            other = clips[(index + 1) % len(clips)]
            rows = {name: measure(model, clips[index], other, judge) for name, model in models.items()}
            for name, figures in rows.items():
                print(line(path.stem, name, figures, rows["before"]), flush=True)
            found[path.stem] = {name: figures.tolist() for name, figures in rows.items()}
            sheets.append(sheet(list(models.values()), clips[index]))
            if args.sheet:
                cv2.imwrite(str(args.sheet), np.vstack(sheets))
    if args.json:
        args.json.write_text(json.dumps({"figures": FIGURES, "videos": found}, indent=1) + "\n")


def _adapted(
    path: Path, folder: Path, checkpoint: Path | None, steps: int, lr: float, detector: FaceDetector
) -> Model:  # fmt: skip
    begun, out = time.monotonic(), folder / "person.safetensors"
    training_part, _ = halves(path)
    with tqdm(unit="step", disable=None, leave=False) as bar:

        def show(unit: str, done: int, whole: int) -> None:
            if unit == "step":
                bar.total = whole
                bar.update(done - bar.n)

        adapt(
            path, out, checkpoint=checkpoint, steps=steps, lr=lr, part=training_part, detector=detector, progress=show
        )
    print(f"<!-- {path.stem}: {steps} steps at {lr:g} took {time.monotonic() - begun:.0f} s -->", flush=True)
    return Model.load(out)


if __name__ == "__main__":
    main()
