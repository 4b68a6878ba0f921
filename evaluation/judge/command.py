"""Validate a sync judge on real videos: `python -m evaluation.judge VIDEO-or-FOLDER ...`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.judge.judge_report import ANOTHER, AS_IT_IS, JudgeFindings, label, summary, tables
from evaluation.judge.validation import SyncJudge, validate
from evaluation.metrics.face_crops import open_source
from preprocessing.build.sources import find_sources
from preprocessing.commands import Parser, run_command, write_whole
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.detectors.flags import add_detector_flags
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.audio import as_int16, load_audio
from syncnet.plots import FORMATS, plot_curves
from syncnet.scoring.lse import PublishedScorer, load_published
from syncnet.scoring.video_scoring import ExpertScorer
from syncnet.sync_expert import JUDGE, SyncExpert

PLOTTED = (AS_IT_IS, "blur, sigma 4 px", "JPEG, quality 10", "crop moved by 4 px", "1/4 of the resolution", ANOTHER)
EPILOG = """\
Prints three tables per judge. Unchanged: the offsets found in the videos, which are assumed to be in sync. Planted: the
audio is shifted by -10 to 10 frames; how often the shift is recovered within one frame, relative to zero (which blames
the judge for recordings that are out of sync) and to the judge's own answer to the unchanged video. Degraded: how
increasingly degraded frames, delayed audio and another speaker's audio change its scores. A reliable judge is robust to
degraded frames and sensitive to wrong audio; the confidence, computed like LSE-C, is blind to delayed audio. Intervals
are 95 % over videos.

exit codes: 0 all videos were scored; 1 some could not be; 2 invalid flag or model.
"""


def pick_other(videos: Sequence[Path], index: int) -> Path | None:
    """The video whose audio replaces that of video `index`; None if there is only one video.

    The search starts half the list further on and prefers another speaker, the part before "__" in the file name.
    """
    speakers, half = [path.stem.split("__")[0] for path in videos], len(videos) // 2
    order = [(index + half + step) % len(videos) for step in range(len(videos))]
    others = [position for position in order if position != index]
    others.sort(key=lambda position: speakers[position] == speakers[index])  # stable: keeps the order among equals
    return videos[others[0]] if others else None


def expand_folders(paths: Sequence[Path]) -> list[Path]:
    """The given files, with each folder replaced by all videos below it, sorted by name.

    Raises:
        UsageError: a folder contains no video.
    """
    return [file for path in paths for file in ([s.path for s in find_sources(path)] if path.is_dir() else [path])]


# Command line --------------------------------------------------------------------------------------------------------


PROGRAM = "evaluation.judge"


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    p = Parser(PROGRAM, __doc__, EPILOG)
    p.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="a real video in sync, or a folder of them")
    p.add_argument(
        "--judge", type=Path, default=JUDGE, metavar="FILE",
        help="sync expert to validate (.safetensors; default: the embedded judge)",
    )  # fmt: skip
    p.add_argument("--syncnet", type=Path, metavar="FILE", help="syncnet_python's syncnet_v2.model, validated as well")
    p.add_argument("--seconds", type=float, default=30.0, metavar="S", help="max length per video (default: 30)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all scores, including those of each video")
    p.add_argument("--plot", type=Path, metavar="FILE", help=f"plot distance over offset ({', '.join(FORMATS)})")
    add_detector_flags(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> int:
        if not args.seconds >= 1:
            raise UsageError(f"--seconds must be 1 or more, not {args.seconds:g}")
        videos = expand_folders(args.videos)
        judges = [SyncJudge("judge", ExpertScorer(SyncExpert.load(args.judge)))]
        if args.syncnet:
            judges.append(SyncJudge("syncnet", PublishedScorer(load_published(args.syncnet))))
        detector = load_detector(args.detector, yunet=args.yunet, sfd=args.s3fd)
        found, reasons = judge_all(judges, videos, detector, args.seconds)
        _report(found, reasons, args)
        return 1 if reasons else 0

    return run_command(PROGRAM, job)


def judge_all(
    judges: Sequence[SyncJudge], videos: Sequence[Path], detector: FaceDetector, seconds: float | None = None
) -> tuple[dict[str, list[JudgeFindings]], dict[Path, str]]:
    """Findings by judge for the videos that can be scored, and reasons by path for the others.

    Args:
        seconds: maximum length used of each video; None for all of it.
    """
    found: dict[str, list[JudgeFindings]] = {judge.name: [] for judge in judges}
    reasons: dict[Path, str] = {}
    for index, path in enumerate(tqdm(videos, unit="video", disable=None)):
        try:
            source, other = open_source(path, detector, seconds), _load_samples(pick_other(videos, index))
            both = [validate(judge, source, other) for judge in judges]
        except (MediaError, OSError, ValueError) as error:
            reasons[path] = " ".join(str(error).split())
            continue
        for judge, findings in zip(judges, both, strict=True):
            found[judge.name].append(findings)
    return found, reasons


def _load_samples(path: Path | None) -> np.ndarray:
    """A file's audio, (n,) int16; empty if it cannot be read."""
    try:
        samples = np.zeros(0) if path is None else load_audio(path)
    except MediaError:
        samples = np.zeros(0)
    return as_int16(samples)


def _report(found: Mapping[str, list[JudgeFindings]], reasons: Mapping[Path, str], args: argparse.Namespace) -> None:
    """Print Markdown and write the requested files."""
    for path, reason in reasons.items():
        print(f"skipped {display_path(path)}: {reason}", file=sys.stderr)
    files = {"judge": args.judge, "syncnet": args.syncnet}
    for name, findings in found.items():
        print(f"## {name}: {display_path(files[name].name)}, {len(findings)} videos, {len(reasons)} skipped\n")
        print(tables(findings, cosine=name == "judge") if findings else "No video could be scored.\n")
    if args.json:
        everything = {name: summary(findings) for name, findings in found.items() if findings}
        skipped = [{"video": str(path), "reason": reason} for path, reason in reasons.items()]
        content = {"judges": everything, "left_out": skipped}
        write_whole(args.json, json.dumps(content, indent=1, allow_nan=False) + "\n")
    if args.plot:
        curves = {
            f"{name}, {label(key)}": np.mean([one.changed[key].curve for one in findings if key in one.changed], axis=0)
            for name, findings in found.items() for key in PLOTTED if any(key in one.changed for one in findings)
        }  # fmt: skip
        plot_curves(curves, args.plot)
