"""Measures the effect of a short lookahead: `python -m wav2lip.lip_motion.training.lookahead CLIPS VIDEOS`.

CLIPS is a folder of motion clips, VIDEOS the folder that they were made from. The first seconds of each held-out
person's first clip are predicted as in live use: every 0.2 s from the last two seconds of audio, for the frames that
lie the lookahead in the past. Prints a line of JSON for each lookahead, and one for the whole audio at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocessing.commands import Parser, run_command
from preprocessing.faces.landmarks.training.labels import VIDEO_SUFFIXES
from preprocessing.media.audio import load_audio
from wav2lip.lip_motion.checkpoint import TrainedMotion
from wav2lip.lip_motion.data.clips import FPS, open_motion_clips
from wav2lip.lip_motion.data.training_set import MotionExample
from wav2lip.lip_motion.evaluate import held_out
from wav2lip.lip_motion.motion import WEIGHTS, LipMotionModel
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE
from wav2lip.lip_motion.training.metrics import clip_metrics, summarize

HOP, PAST = 5, 50  # frames at 25 fps: between predictions, and of audio context before the predicted frames
LOOKAHEADS = (1.0, 0.4, 0.2, 0.0)  # seconds
SECONDS = 8.0  # of each person
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS


def live_coefficients(
    model: LipMotionModel, samples: np.ndarray, ahead: float, gain: float, rest_gap: float
) -> np.ndarray:  # fmt: skip
    """(T, K) coefficients of (n,) samples, each frame predicted from audio up to `ahead` seconds after it.

    Frames are predicted in groups of five, so some of them get up to 0.16 s more.
    """
    frames, later, rows = len(samples) // SAMPLES_PER_FRAME, round(ahead * FPS), []
    for first in range(0, frames, HOP):
        start, now = max(0, first - PAST), first + HOP - 1 + later
        piece = samples[start * SAMPLES_PER_FRAME : now * SAMPLES_PER_FRAME + 1]
        motion = model.displacements(piece, gain=gain, rest_gap=rest_gap)
        rows.append(motion.coefficients[first - start : first - start + HOP])
    return np.concatenate(rows)[:frames]


def truncated(item: MotionExample, frames: int) -> MotionExample:
    """The first frames of an example."""
    parts = {
        name: getattr(item, name)[:frames] for name in ("coefficients", "known", "opening", "width", "speech")
    }  # fmt: skip
    return MotionExample(item.clip, item.gain, **parts)


def measure_lookahead(
    model: LipMotionModel, items: Sequence[tuple[MotionExample, np.ndarray]], ahead: float | None
) -> dict[str, float]:  # fmt: skip
    """Median metrics over examples with their samples; `ahead` None predicts from the whole audio at once."""
    found = []
    for item, samples in items:
        gain, gap = item.gain, item.rest_gap
        if ahead is None:
            coefficients = model.displacements(samples, gain=gain, rest_gap=gap).coefficients
        else:
            coefficients = live_coefficients(model, samples, ahead, gain, gap)
        frames = min(len(coefficients), item.frames)
        found.append(clip_metrics(model.space, truncated(item, frames), coefficients[:frames]))
    return summarize(found)


def with_audio(items: Sequence[MotionExample], videos: Path, seconds: float) -> list[tuple[MotionExample, np.ndarray]]:
    """Each person's first example and its samples, both truncated to `seconds`."""
    firsts = {item.clip.speaker: item for item in reversed(items)}
    paths = {path.stem: path for path in (videos / "val").iterdir() if path.suffix.lower() in VIDEO_SUFFIXES}
    pairs = []
    for item in firsts.values():
        samples = load_audio(paths[item.clip.name])[: round(seconds * SAMPLE_RATE)]
        pairs.append((truncated(item, len(samples) // SAMPLES_PER_FRAME), samples))
    return pairs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser("wav2lip.lip_motion.training.lookahead", __doc__)
    parser.add_argument("clips", type=Path, help="folder of motion clips")
    parser.add_argument("videos", type=Path, help="folder of the videos that they were made from")
    parser.add_argument(
        "--checkpoint", type=Path, default=WEIGHTS, help="checkpoint of the model (default: the bundled one)"
    )
    given = parser.parse_args(argv)

    def job() -> None:
        model, trained = LipMotionModel.load(given.checkpoint), TrainedMotion.load(given.checkpoint)
        clips = open_motion_clips(given.clips, trained.encoder)
        items = with_audio(held_out(clips, trained, None), given.videos, SECONDS)
        for ahead in (None, *LOOKAHEADS):
            found = measure_lookahead(model, items, ahead)
            shown = {name: round(found[name], 3) for name in ("opening_r", "width_r", "closures_kept", "deviation")}
            print(json.dumps({"lookahead": ahead} | shown), flush=True)

    return run_command("wav2lip.lip_motion.training.lookahead", job)


if __name__ == "__main__":
    sys.exit(main())
