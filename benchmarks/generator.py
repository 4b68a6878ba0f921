"""What a generator does on held-out clips, by figures that its card gives.

    .venv/bin/python benchmarks/generator.py CLIPS --expert syncnet/weights/syncnet.safetensors [--split val] \
        [--checkpoint FILE]

Reconstruction: mean absolute difference of the masked rows (0 to 1), five frames of each clip from a reference of like
pose elsewhere in it, with their own sound, with another clip's, and for the reference as it is. Sync: the expert's
cosine for real mouths, generated ones and generated ones with another sound (the expert also trained the generator: it
flatters). Motion: mean change of the mouth from frame to frame, in levels of 255, when each frame is its own reference,
as in use: of the source, spoken to, in silence, and in silence with the first frame as everybody's reference.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.audio import rest_in_silence  # noqa: E402
from preprocessing.augmentation import Augmentation  # noqa: E402
from preprocessing.clips import Clip, open_clips  # noqa: E402
from preprocessing.windows import Region, face_window, mel_windows  # noqa: E402
from syncnet.data import WINDOW  # noqa: E402
from syncnet.expert import Expert  # noqa: E402
from wav2lip.checkpoints import load_generator  # noqa: E402
from wav2lip.data import sample  # noqa: E402
from wav2lip.model import Generator, mask_and_stack, render  # noqa: E402
from wav2lip.train import collate  # noqa: E402

MOUTH = (slice(42, 84), slice(26, 70))  # rows and columns of a 96-pixel points crop


def cosine(expert: Expert, pictures: torch.Tensor, mel: torch.Tensor) -> float:
    """The expert's cosine of five pictures (5, 3, S, S) and a window (1, 1, 80, 16)."""
    audio, face = expert.network(mel, expert.look(pictures.transpose(0, 1)[None]))
    return float((audio * face).sum())


def motion(model: Generator, clip: Clip, count: int = 25) -> list[float]:
    """Mean change of the mouth from frame to frame: source, own speech, silence, silence with a held reference."""
    count = min(count, clip.frames)
    frames = face_window(clip, Region(size=model.config.size), 0, count)
    faces = torch.from_numpy(mask_and_stack(frames, frames, model.config.mask_row))
    quiet = rest_in_silence(clip.mel, clip.speech)
    spoken = torch.from_numpy(mel_windows(quiet, range(count)))
    silent = torch.full_like(spoken, -4)
    held = torch.from_numpy(mask_and_stack(frames, np.repeat(frames[:1], count, axis=0), model.config.mask_row))
    jobs = ((spoken, faces), (silent, faces), (silent, held))
    pictures = [faces[:, 3:]] + [render(model(m, f), f, model.config) for m, f in jobs]
    return [(255 * (p[1:] - p[:-1]).abs())[:, :, MOUTH[0], MOUTH[1]].mean().item() for p in pictures]


@torch.inference_mode()
def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--split", help="only the clips of this split, e.g. val (default: all)")
    parser.add_argument("--expert", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    model = load_generator(args.checkpoint)[0]
    expert = Expert.load(args.expert)
    clips, size, row = open_clips(args.clips, 2 * WINDOW, args.split), model.config.size, model.config.mask_row
    rows, moves = [], []
    seeds = [np.random.default_rng((7, i)) for i in range(len(clips))]
    windows = [sample(c, rng, size, row, Augmentation.none()) for c, rng in zip(clips, seeds, strict=True)]
    for index, (clip, window) in enumerate(zip(clips, windows, strict=True)):
        batch, other = collate([window], row), torch.from_numpy(windows[(index + 1) % len(windows)].mels)
        own, swapped = (render(model(m, batch.faces), batch.faces, model.config) for m in (batch.mels, other))
        lower = [(p - batch.target).abs()[:, :, row:].mean().item() for p in (own, swapped, batch.faces[:, 3:])]
        sync = [cosine(expert, p, batch.window_mel) for p in (batch.target, own, swapped, batch.faces[:, 3:])]
        rows.append(lower + sync)
        moves.append(motion(model, clip))
    means, changes = np.mean(rows, axis=0), np.mean(moves, axis=0)
    better = np.mean([r[4] > r[5] for r in rows])
    print(f"{len(clips)} clips of {len({clip.speaker for clip in clips})} people")
    print(f"difference: own sound {means[0]:.4f}, another's {means[1]:.4f}, the reference {means[2]:.4f}")
    print(f"cosine: real {means[3]:.3f}, generated {means[4]:.3f}, swapped {means[5]:.3f}, still {means[6]:.3f}")
    print(f"share of windows in which the own sound scores higher than another's: {better:.2f}")
    named = zip(("source", "spoken", "silent", "silent with a held reference"), changes, strict=True)
    print("motion: " + ", ".join(f"{name} {value:.2f}" for name, value in named))


if __name__ == "__main__":
    main()
