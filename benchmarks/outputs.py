"""Drive real clips with each other's speech by a generator and check: length, untouched area, contact sheet.

    .venv/bin/python benchmarks/outputs.py FOLDER --checkpoint FILE --out results/outputs [--count 10] [--detector NAME]

Clip k of the selection gets the audio of clip k + 1. The untouched area is everything outside the mask; its PSNR shows
the cost of video encoding alone.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from inference.files.face_source import FaceSource, Framing  # noqa: E402
from inference.generator.compositing import crop_mask  # noqa: E402
from inference.pipeline import LipSync  # noqa: E402
from preprocessing.faces.face_track import FaceTrack  # noqa: E402
from preprocessing.media.audio import frame_count, load_audio  # noqa: E402
from preprocessing.media.video_reader import read_frames  # noqa: E402


def untouched_psnr(made: Path, source: FaceSource, track: FaceTrack, model: LipSync) -> tuple[float, int]:
    """Mean PSNR (dB) outside the mask over every tenth frame, and the number of decoded frames."""
    geometry, errors, count = model.engine.generator.geometry, [], 0
    mask = (crop_mask(geometry.kind, geometry.size) > 0).astype(np.uint8)
    pairs = zip(source.play(10**6, "bounce"), read_frames(made), strict=False)
    for count, ((number, before), after) in enumerate(pairs, 1):
        if count % 10 == 1:
            outside = np.ones(before.shape[:2], bool)
            if track.found[number]:
                matrix = geometry.matrix(track.boxes[number], track.points[number], source.size)
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                outside = cv2.warpAffine(mask, matrix, source.size, flags=flags) == 0
            difference = before[outside].astype(np.float32) - after[outside]
            errors.append(10 * np.log10(255**2 / max(float((difference**2).mean()), 1e-9)))
    return float(np.mean(errors)), count


def main() -> None:
    """Print a Markdown table and write videos and contact sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--yunet", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    clips = sorted(args.folder.glob("*.mp4"))
    clips = [clips[i] for i in np.linspace(0, len(clips) - 1, args.count).round().astype(int)]
    model = LipSync.load(args.checkpoint)
    print("| face | audio | frames | expected | decoded | with a face | untouched PSNR dB | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for face, audio in zip(clips, clips[1:] + clips[:1], strict=True):
        made, track = args.out / face.name, args.out / (face.stem + ".json")
        options = {"detector": args.detector, "yunet": args.yunet, "save_track": track, "preview": 8}
        report = model(face, audio, made, **options)
        expected = frame_count(len(load_audio(audio)), Fraction(report.fps))
        psnr, decoded = untouched_psnr(made, FaceSource(face, Framing()), FaceTrack.load(track), model)
        row = [face.stem, audio.stem, report.frames, expected, decoded, report.faces, f"{psnr:.1f}"]
        print("| " + " | ".join(map(str, [*row, f"{report.seconds['total']:.1f}"])) + " |", flush=True)


if __name__ == "__main__":
    main()
