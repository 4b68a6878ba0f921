"""How many hard inputs give a whole, valid video: `python -m evaluation.protocols.robustness --face A --second B --audio C`."""

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

from evaluation.protocols.stress import HardInput, read_hards, stress
from evaluation.protocols.validity import check_video
from evaluation.report.results import OURS, StressResult
from inference.pipeline import LipSync
from preprocessing.commands import Parser, run_command, write_whole
from preprocessing.errors import MediaError, UsageError
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.detectors.flags import add_detector_flags

# What a job may end with. Beside the errors that it means, those of a fault that a hard input brings to light: they
# are counted here, for to be told of them is what the list is for.
FAILURES = (OSError, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError, av.FFmpegError, cv2.error)
LEFTOVER = ".unfinished-*"  # what `preprocessing.media.video_writer` names a video that is not whole


def try_all(
    hards: Sequence[HardInput], systems: Mapping[str, LipSync], out: Path, **options: Any
) -> list[StressResult]:
    """Lets each system make a video of each hard input, and looks whether it is whole and valid.

    Args:
        systems: by name.
        out: the report's folder; the videos go to videos/stress/KIND/SYSTEM.mp4 below it.
        options: of every job, see `inference.options.Options`.
    """
    trials, known = list[StressResult](), Counter[str]()
    bar = tqdm(total=len(hards) * len(systems), unit="video", disable=None)
    with bar:
        for hard in hards:
            folder = _folder(out, hard.kind, known)
            for system, model in systems.items():
                trials.append(attempt(hard, system, model, folder / f"{_plain(system)}.mp4", out, options))
                bar.update()
    return trials


def attempt(
    hard: HardInput, system: str, model: LipSync, video: Path, out: Path, options: Mapping[str, Any]
) -> StressResult:  # fmt: skip
    """One video of one system."""
    try:
        video.unlink(missing_ok=True)
        model(hard.face, hard.audio, video, **options)
    except FAILURES as error:
        kind = "" if isinstance(error, (MediaError, ValueError, OSError)) else f"{type(error).__name__}: "
        return StressResult(hard.kind, system, False, " ".join(f"{kind}{error}".split()) or type(error).__name__)
    reason = check_video(video, hard.face, hard.audio)
    if not reason and any(video.parent.glob(LEFTOVER)):
        reason = "half of a video is left beside it"
    return StressResult(
        hard.kind, system, not reason, reason, video.relative_to(out).as_posix() if video.exists() else ""
    )


def _folder(out: Path, kind: str, known: Counter[str]) -> Path:
    """A folder of an input's own, though two be of one kind."""
    name = _plain(kind)
    known[name] += 1
    folder = out / "videos" / "stress" / (name if known[name] == 1 else f"{name}-{known[name]}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plain(name: str) -> str:
    """A name as a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60].lstrip(".-") or "unnamed"


def table(trials: Sequence[StressResult]) -> str:
    """Markdown: what became of each kind, and each system's share of whole videos."""
    systems = list(dict.fromkeys(trial.system for trial in trials))
    lines = [f"| input | {' | '.join(systems)} |", "|---" * (len(systems) + 1) + "|"]
    for kind in dict.fromkeys(trial.kind for trial in trials):
        cells = [[t for t in trials if (t.kind, t.system) == (kind, system)] for system in systems]
        lines.append(f"| {_cell(kind)} | {' | '.join('; '.join(map(_said, some)) for some in cells)} |")
    shares = [[trial.passed for trial in trials if trial.system == system] for system in systems]
    lines.append(f"| **whole and valid** | {' | '.join(f'{sum(some)} of {len(some)}' for some in shares)} |")
    return "\n".join(lines)


def _said(trial: StressResult) -> str:
    return "yes" if trial.passed else f"no: {_cell(trial.reason)}"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


# The command ---------------------------------------------------------------------------------------------------------


PROGRAM = "evaluation.protocols.robustness"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    epilog = "exit codes: 0 all videos are whole; 1 some are not, or a file cannot be used; 2 a wrong flag"
    p = Parser(PROGRAM, __doc__, epilog)
    p.add_argument("--face", type=Path, metavar="FILE", help="a video of somebody")
    p.add_argument("--second", type=Path, metavar="FILE", help="a video of somebody else")
    p.add_argument("--audio", type=Path, metavar="FILE", help="what is to be said")
    p.add_argument("--list", type=Path, metavar="FILE", help="hard inputs of your own: CSV, kind,face,audio")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for inputs, videos and robustness.json")
    p.add_argument("--checkpoint", type=Path, metavar="FILE", help="a generator (default: the embedded one)")
    add_detector_flags(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> int:
        given = [args.face, args.second, args.audio]
        if all(given) == bool(args.list) or (args.list and any(given)):
            raise UsageError("give either --face, --second and --audio, or --list")
        hards = read_hards(args.list) if args.list else []
        model = LipSync.load(args.checkpoint)
        options = {"detector": args.detector, "yunet": args.yunet, "s3fd": args.s3fd}
        detector = load_detector(args.detector, yunet=args.yunet, sfd=args.s3fd)
        hards = hards or stress(args.face, args.second, args.audio, args.out / "hard inputs", detector)
        trials = try_all(hards, {OURS: model}, args.out, **options)
        print(table(trials))
        write_whole(args.out / "robustness.json", json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
        return 0 if all(trial.passed for trial in trials) else 1

    return run_command(PROGRAM, job)


if __name__ == "__main__":
    sys.exit(main())
