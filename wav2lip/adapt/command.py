"""Adapts a generator to one person: `python -m wav2lip.adapt --face video.mp4 --out person.safetensors`.

A few hundred training steps on a video of the person, with its audio, teach the generator how this mouth moves and what
its teeth and skin look like; use the result with `inference.py --checkpoint-path person.safetensors`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preprocessing.commands import Parser, run_command
from preprocessing.dataset.clips import CLIP_FPS
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.detectors.flags import add_detector_flags
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.audio import AudioConfig
from syncnet.sync_expert import EXPERT, SyncExpert
from training.progress import ProgressBars
from wav2lip.adapt.fine_tuning import difference, start_tuning, tuning_batches, tuning_recipe, tuning_step, unaugmented
from wav2lip.adapt.person_clips import LONGEST, SHORTEST, VideoPart, make_person_clips, repaired
from wav2lip.generator.checkpoints import EMBEDDED, load_generator
from wav2lip.generator.train_state import save_generator
from wav2lip.generator.unet import AnyGenerator

STEPS, RATE = 200, 3e-4
WHOLE = VideoPart()
EPILOG = f"""\
The video must show and contain at least {SHORTEST:g} seconds of the person speaking; up to {LONGEST:g} seconds are
used. Its AV offset is measured and repaired. Only the generator's image layers are trained; the face and audio encoders
stay frozen. Use it only with the consent of the person shown.

exit codes: 0 done; 1 a file cannot be read, written or used; 2 invalid flag or model; 130 interrupted. After an error
no output file is left.
"""

Progress = Callable[[str, int, int], None]
"""Called with the unit, "frame" or "step", the number done and the total."""


@dataclass(frozen=True)
class AdaptReport:
    """Result of an adaptation.

    Attributes:
        out: the checkpoint.
        seconds: length of the training clips.
        clips: number of training clips.
        offset: AV offset of the video in frames (positive: audio early), repaired for training.
        before, after: L1 of the masked rows, 0 to 1, on windows of the same video.
        time: duration in seconds.
    """

    out: Path
    seconds: float
    clips: int
    offset: int
    before: float
    after: float
    time: float


def adapt(
    face: Path | str, out: Path | str, *, checkpoint: Path | str | None = None, expert: Path = EXPERT,
    steps: int = STEPS, lr: float = RATE, seed: int = 0, part: VideoPart = WHOLE, detector: FaceDetector | None = None,
    progress: Progress | None = None,
) -> AdaptReport:  # fmt: skip
    """Fine-tunes a generator on one person's video and writes it as a new checkpoint, atomically.

    Source: few-shot adaptation after "Few-Shot Adversarial Learning of Realistic Neural Talking Head Models" (arXiv
    1905.08233), here of the decoder alone and without a critic, with the sync loss of the generator's training.

    Args:
        face: the video, with its sound.
        out: the checkpoint.
        checkpoint: the generator to start from; None: the embedded one.
        expert: the sync expert for the sync loss and for measuring the video's AV offset.
        steps: training steps.
        lr: peak learning rate.
        seed: of all random draws.
        part: the face and the time range to use.
        detector: from `load_detector`; None: "auto".
        progress: called during tracking and training.

    Raises:
        MediaError: the video is unsuitable, the checkpoint is not a generator, or `out` cannot be written.
        UsageError: an option is invalid, or the generator does not use points crops.
        TrainingError: a loss is not finite.
    """
    begun, (face, out) = time.monotonic(), (Path(face), Path(out))
    _check_out(out, [face, expert, Path(checkpoint or EMBEDDED)])
    generator, critic = _open(checkpoint), SyncExpert.load(expert)
    recipe = tuning_recipe(generator.config, steps, lr, seed)
    with tempfile.TemporaryDirectory() as folder:
        looked = partial(progress, "frame") if progress else None
        clips = make_person_clips(face, Path(folder), part, detector or load_detector(), looked)
        clips, score = repaired(face, clips, critic)
        state, own = start_tuning(recipe, generator, critic), unaugmented(clips, generator.config)
        before = difference(state.average, own)
        for done, batch in enumerate(tuning_batches(state, clips), 1):
            tuning_step(state, batch)
            if progress:
                progress("step", done, steps)
        after = difference(state.average, own)
        seconds = sum(clip.frames for clip in clips) / CLIP_FPS
    save_generator(state, out)
    return AdaptReport(out, seconds, len(clips), score.offset, before, after, time.monotonic() - begun)


def _check_out(out: Path, inputs: Iterable[Path]) -> None:
    if out.suffix.lower() != ".safetensors":
        raise UsageError(f"the output must end in .safetensors, not {display_path(out.name)}")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise MediaError(f"{display_path(out)} cannot be written: it must be a file in an existing folder")
    if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
        raise UsageError(f"the output {display_path(out)} is also an input: give it another name")


def _open(checkpoint: Path | str | None) -> AnyGenerator:
    """Loads a generator that can be trained on points crops."""
    generator, audio, crop = load_generator(checkpoint)
    name = display_path(checkpoint or EMBEDDED)
    if crop.kind != "points":
        raise UsageError(
            f"{name} uses crops of the kind {crop.kind!r}: only generators for points crops can be adapted"
        )
    AudioConfig().require(audio, name)
    return generator


# The command ---------------------------------------------------------------------------------------------------------


PROGRAM = "wav2lip.adapt"


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser(PROGRAM, __doc__, EPILOG)
    p.add_argument("--face", type=Path, required=True, metavar="FILE", help="video of the person speaking, with audio")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="output checkpoint (.safetensors)")
    p.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="generator to start from (default: the embedded one)"
    )
    p.add_argument(
        "--expert",
        type=Path,
        default=EXPERT,
        metavar="FILE",
        help="sync expert for the sync loss (default: the included one)",
    )
    p.add_argument("--steps", type=int, default=STEPS, metavar="N", help="training steps (default: %(default)s)")
    p.add_argument("--lr", type=float, default=RATE, metavar="X", help="learning rate (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    p.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="start of the time range to use")
    p.add_argument("--end", type=float, metavar="SECONDS", help="end of the time range to use")
    p.add_argument("--select", default="largest", metavar="WHOM", help="largest, left, right, center or the pixel X,Y")
    add_detector_flags(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> None:
        part = VideoPart(args.start, args.end, args.select)
        detector = load_detector(args.detector, yunet=args.yunet, sfd=args.s3fd)
        with ProgressBars() as bars:
            report = adapt(
                args.face, args.out, checkpoint=args.checkpoint, expert=args.expert, steps=args.steps, lr=args.lr,
                seed=args.seed, part=part, detector=detector, progress=bars.show,
            )  # fmt: skip
        print(summary(report))

    return run_command(PROGRAM, job, "interrupted: no output was written")


def summary(report: AdaptReport) -> str:
    """The report as three lines of text."""
    early = f"its AV offset was {report.offset:+d} frames"
    return (
        f"{display_path(report.out)}: adapted in {report.time:.0f} s\n"
        f"trained on {report.seconds:.1f} s of the speaking face in {report.clips} clips; {early}\n"
        f"L1 of the lower face on the same video: {report.before:.4f} before, {report.after:.4f} after"
    )
