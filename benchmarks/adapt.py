"""What adapting to a person brings: learnt from the first half of a video, measured on the second.

`python -m benchmarks.adapt VIDEO ... [--steps 100 200]` prints a Markdown table of the generator before and after. Each
window of five frames of the second half is made of one frame of like pose elsewhere in that half, with its own sound
and with that of the next video. The judge is not the expert of the sync loss.
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

from benchmarks.speaking import Footage, Model, sounds
from evaluation.metrics import picture
from evaluation.metrics.picture import MASK, MOUTH, part
from evaluation.metrics.statistics import bootstrap
from evaluation.metrics.sync import look
from preprocessing.dataset.clips import Clip
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.video_reader import probe
from syncnet.data import WINDOW
from syncnet.sync_expert import JUDGE, SyncExpert
from wav2lip.adapt.command import RATE, STEPS, adapt
from wav2lip.adapt.person_clips import VideoPart, make_person_clips, repaired
from wav2lip.generator.reference_sampling import reference_frames

APART = 10  # frames from one measured window to the next
FIGURES = ("l1", "psnr", "own", "other")
SHOWN = 6  # frames of each video on the sheet


def halves(path: Path) -> tuple[VideoPart, VideoPart]:
    """What is learnt and what is measured of a video: its first 30 s at most, and as much after that."""
    half = min(probe(path).duration / 2, 30.0)
    return VideoPart(end=half), VideoPart(start=half, end=2 * half)


def held_out(path: Path, folder: Path, detector: FaceDetector) -> Clip:
    """The longest clip of the second half, with its offset repaired."""
    clips = make_person_clips(path, folder, halves(path)[1], detector)
    return max(repaired(path, clips, SyncExpert.load())[0], key=lambda clip: clip.frames)


def measure(model: Model, clip: Clip, other: Clip, judge: SyncExpert) -> np.ndarray:
    """(W, 4) figures of a clip's windows: L1 and PSNR of the mouth, the judge's cosine of the own and another sound."""
    footage, rows = Footage(clip), []
    last = min(clip.frames, other.frames) - WINDOW
    for first in range(1, last, APART):
        frames = np.arange(first, first + WINDOW)
        reference, _ = reference_frames(clip, first, MASK, np.random.default_rng((7, first)))
        real, near = part(footage.faces()[frames], MOUTH), []
        for sound in (clip, other):
            made = model.reconstruct(footage, frames, reference, sounds(sound, frames))
            video = judge.embed_mouths(look(made, judge.region))
            near.append((made, float((video * judge.embed_speech(sound.mel, frames[:1])).sum())))
        mouth = part(near[0][0], MOUTH)
        rows.append((picture.difference(mouth, real), picture.psnr(mouth, real), near[0][1], near[1][1]))
    return np.array(rows)


def line(video: str, system: str, rows: np.ndarray, before: np.ndarray) -> str:
    """A row of the table, with the 95 % interval of the change in L1 of the same windows."""
    l1, psnr, own, other = rows.mean(0)
    low, high = bootstrap(rows[:, 0] - before[:, 0])
    change = "" if rows is before else f"{low:+.4f} to {high:+.4f}"
    return f"| {video} | {system} | {len(rows)} | {l1:.4f} | {psnr:.2f} | {own:.3f} | {other:.3f} | {change} |"


def sheet(models: Sequence[Model], clip: Clip) -> np.ndarray:
    """Some frames of a clip, in columns: the real ones, and below them what each model makes of another frame."""
    footage, columns = Footage(clip), []
    for first in np.linspace(1, clip.frames - WINDOW - 1, SHOWN).astype(int):
        frames = np.arange(first, first + WINDOW)
        reference, _ = reference_frames(clip, int(first), MASK, np.random.default_rng((7, int(first))))
        made = [model.reconstruct(footage, frames, reference, sounds(clip, frames))[2] for model in models]
        columns.append(np.vstack([footage.faces()[first + 2], *made]))
    return np.hstack(columns)


def main(argv: Sequence[str] | None = None) -> None:
    """Adapts and measures; see --help."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--steps", type=int, nargs="+", default=[STEPS])
    p.add_argument("--lr", type=float, nargs="+", default=[RATE])
    p.add_argument("--yunet", type=Path)
    p.add_argument("--json", type=Path, help="also write every window's figures")
    p.add_argument("--sheet", type=Path, help="also draw real, before and after below each other")
    args = p.parse_args(argv)
    detector, judge = load_detector(yunet=args.yunet), SyncExpert.load(JUDGE)
    ways = [(steps, lr) for steps in args.steps for lr in args.lr]
    pictures, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        clips = [held_out(path, Path(folder) / str(index), detector) for index, path in enumerate(args.videos)]
        print("| video | generator | windows | L1 mouth | PSNR mouth | judge, own sound | another's | change of L1 |")
        print("|---|---|---|---|---|---|---|---|")
        for index, path in enumerate(args.videos):
            models = {"before": Model.load(args.checkpoint)}
            for steps, lr in ways:
                models[f"{steps} steps, {lr:g}"] = _adapted(path, Path(folder), args.checkpoint, steps, lr, detector)
            other = clips[(index + 1) % len(clips)]
            rows = {name: measure(model, clips[index], other, judge) for name, model in models.items()}
            for name, figures in rows.items():
                print(line(path.stem, name, figures, rows["before"]), flush=True)
            found[path.stem] = {name: figures.tolist() for name, figures in rows.items()}
            pictures.append(sheet(list(models.values()), clips[index]))
            if args.sheet:
                cv2.imwrite(str(args.sheet), np.vstack(pictures))
    if args.json:
        args.json.write_text(json.dumps({"figures": FIGURES, "videos": found}, indent=1) + "\n")


def _adapted(
    path: Path, folder: Path, checkpoint: Path | None, steps: int, lr: float, detector: FaceDetector
) -> Model:  # fmt: skip
    begun, out = time.monotonic(), folder / "person.safetensors"
    learnt, _ = halves(path)
    with tqdm(unit="step", disable=None, leave=False) as bar:

        def show(unit: str, done: int, whole: int) -> None:
            if unit == "step":
                bar.total = whole
                bar.update(done - bar.n)

        adapt(path, out, checkpoint=checkpoint, steps=steps, lr=lr, part=learnt, detector=detector, progress=show)
    print(f"<!-- {path.stem}: {steps} steps at {lr:g} took {time.monotonic() - begun:.0f} s -->", flush=True)
    return Model.load(out)


if __name__ == "__main__":
    main()
