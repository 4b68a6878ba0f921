"""Robustness to hard inputs: `python -m evaluation.protocols.robustness --face A --second B --audio C --out FOLDER`.

Reports how many hard inputs result in a complete, valid video.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import cv2
from tqdm import tqdm

from evaluation.protocols.stress import HardInput, make_hard_inputs, read_hard_inputs
from evaluation.protocols.validity import check_video
from evaluation.report.results import OURS, StressResult
from inference.pipeline import LipSync
from preprocessing.commands import Parser, run_command, write_whole
from preprocessing.errors import MediaError, UsageError
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.detectors.flags import add_detector_flags

# Errors a job may end with: intended ones, and those of bugs that hard inputs reveal, which must be counted as well.
FAILURES = (OSError, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError, av.FFmpegError, cv2.error)
LEFTOVER = ".unfinished-*"  # names that `preprocessing.media.video_writer` gives to incomplete videos


def run_stress(
    inputs: Sequence[HardInput], systems: Mapping[str, LipSync], out: Path, **options: Any
) -> list[StressResult]:
    """Run each system on each hard input and check that the video is complete and valid.

    Args:
        systems: by name.
        out: the report's folder; videos are written to videos/stress/KIND/SYSTEM.mp4 below it.
        options: of every job, see `inference.options.Options`.
    """
    trials, known = list[StressResult](), Counter[str]()
    bar = tqdm(total=len(inputs) * len(systems), unit="video", disable=None)
    with bar:
        for hard in inputs:
            folder = _make_folder(out, hard.kind, known)
            for system, model in systems.items():
                trials.append(run_one(hard, system, model, folder / f"{_file_name(system)}.mp4", out, options))
                bar.update()
    return trials


def run_one(
    hard: HardInput, system: str, model: LipSync, video: Path, out: Path, options: Mapping[str, Any]
) -> StressResult:  # fmt: skip
    """Run one system on one hard input."""
    try:
        video.unlink(missing_ok=True)
        model(hard.face, hard.audio, video, **options)
    except FAILURES as error:
        kind = "" if isinstance(error, (MediaError, ValueError, OSError)) else f"{type(error).__name__}: "
        return StressResult(hard.kind, system, False, " ".join(f"{kind}{error}".split()) or type(error).__name__)
    reason = check_video(video, hard.face, hard.audio)
    if not reason and any(video.parent.glob(LEFTOVER)):
        reason = "an unfinished temporary video was left behind"
    return StressResult(
        hard.kind, system, not reason, reason, video.relative_to(out).as_posix() if video.exists() else ""
    )


def _make_folder(out: Path, kind: str, known: Counter[str]) -> Path:
    """A separate folder for each input, even if two are of the same kind."""
    name = _file_name(kind)
    known[name] += 1
    folder = out / "videos" / "stress" / (name if known[name] == 1 else f"{name}-{known[name]}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file_name(name: str) -> str:
    """The name made safe for a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60].lstrip(".-") or "unnamed"


def table(trials: Sequence[StressResult]) -> str:
    """Results by input kind and the pass count of each system, as Markdown."""
    systems = list(dict.fromkeys(trial.system for trial in trials))
    lines = [f"| input | {' | '.join(systems)} |", "|---" * (len(systems) + 1) + "|"]
    for kind in dict.fromkeys(trial.kind for trial in trials):
        cells = [[t for t in trials if (t.kind, t.system) == (kind, system)] for system in systems]
        lines.append(f"| {_cell(kind)} | {' | '.join('; '.join(map(_outcome, group)) for group in cells)} |")
    shares = [[trial.passed for trial in trials if trial.system == system] for system in systems]
    lines.append(f"| **complete and valid** | {' | '.join(f'{sum(group)} of {len(group)}' for group in shares)} |")
    return "\n".join(lines)


def _outcome(trial: StressResult) -> str:
    return "yes" if trial.passed else f"no: {_cell(trial.reason)}"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


# Command line --------------------------------------------------------------------------------------------------------


PROGRAM = "evaluation.protocols.robustness"


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    epilog = "exit codes: 0 all videos are valid; 1 some are not, or a file cannot be used; 2 invalid flag"
    p = Parser(PROGRAM, __doc__, epilog)
    p.add_argument("--face", type=Path, metavar="FILE", help="video of one person")
    p.add_argument("--second", type=Path, metavar="FILE", help="video of another person")
    p.add_argument("--audio", type=Path, metavar="FILE", help="driving audio")
    p.add_argument("--list", type=Path, metavar="FILE", help="custom hard inputs: CSV with the columns kind,face,audio")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for inputs, videos and robustness.json")
    p.add_argument("--checkpoint", type=Path, metavar="FILE", help="generator (default: the default engine)")
    add_detector_flags(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> int:
        given = [args.face, args.second, args.audio]
        if all(given) == bool(args.list) or (args.list and any(given)):
            raise UsageError("give either --face, --second and --audio, or --list")
        inputs = read_hard_inputs(args.list) if args.list else []
        model = LipSync.load(args.checkpoint)
        options = {"detector": args.detector, "yunet": args.yunet, "s3fd": args.s3fd}
        detector = load_detector(args.detector, yunet=args.yunet, sfd=args.s3fd)
        inputs = inputs or make_hard_inputs(args.face, args.second, args.audio, args.out / "hard inputs", detector)
        trials = run_stress(inputs, {OURS: model}, args.out, **options)
        print(table(trials))
        write_whole(args.out / "robustness.json", json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
        return 0 if all(trial.passed for trial in trials) else 1

    return run_command(PROGRAM, job)


if __name__ == "__main__":
    sys.exit(main())
