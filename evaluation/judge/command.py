"""How far a judge of sync can be trusted, on real videos: `python -m evaluation.judge VIDEO-or-FOLDER ...`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.judge.examination import ANOTHER, SyncJudge, examine
from evaluation.judge.judge_report import AS_IT_IS, JudgeFindings, summary, tables
from evaluation.metrics.face_crops import open_source
from preprocessing.build.sources import find_sources
from preprocessing.commands import Parser, run_command, write_whole
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.detectors.flags import add_detector_flags
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.audio import as_int16, load_audio
from syncnet.lse import PublishedScorer, load_published
from syncnet.plots import FORMATS, plot_curves
from syncnet.sync_expert import JUDGE, SyncExpert
from syncnet.video_scoring import ExpertScorer

DRAWN = (AS_IT_IS, "blur, sigma 4 px", "JPEG, quality 10", "crop moved by 4 px", "1/4 of the resolution", ANOTHER)
EPILOG = """\
Three tables for each judge. As they are: the offsets it finds in the videos, which are taken to be in sync. Planted:
the sound is made 10 frames early to 10 late; how often that is found within one frame, counted from zero (which blames
the judge for recordings that are not in sync) and from its own answer to the unchanged video. Degraded: what worse and
worse pictures, late sound and another's sound do to its figures. A judge that is to be trusted loses little in the
first and much in the last; the confidence, as LSE-C is taken, is blind to late sound. Intervals are 95 % over videos.

exit codes: 0 all videos are judged; 1 some cannot be; 2 a wrong flag or model.
"""


def someone_else(videos: Sequence[Path], index: int) -> Path | None:
    """Whose sound is put under a video: half the list farther on, or the next of another speaker from there, by what
    stands before "__" in the name; None if there is only one video."""
    speakers, half = [path.stem.split("__")[0] for path in videos], len(videos) // 2
    order = [(index + half + step) % len(videos) for step in range(len(videos))]
    others = [place for place in order if place != index]
    others.sort(key=lambda place: speakers[place] == speakers[index])  # stable: of one kind the order stays
    return videos[others[0]] if others else None


def listed(places: Sequence[Path]) -> list[Path]:
    """The videos themselves, and of a folder all below it, by name.

    Raises:
        UsageError: a folder holds none.
    """
    return [path for place in places for path in ([s.path for s in find_sources(place)] if place.is_dir() else [place])]


# The command ---------------------------------------------------------------------------------------------------------


PROGRAM = "evaluation.judge"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = Parser(PROGRAM, __doc__, EPILOG)
    p.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="a real video in sync, or a folder of them")
    p.add_argument(
        "--judge", type=Path, default=JUDGE, metavar="FILE",
        help="one of our experts (.safetensors; default: the judge that comes with the program)",
    )  # fmt: skip
    p.add_argument("--syncnet", type=Path, metavar="FILE", help="syncnet_python's syncnet_v2.model, judged as well")
    p.add_argument("--seconds", type=float, default=30.0, metavar="S", help="the most of each video (default: 30)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all figures, also those of each video")
    p.add_argument("--plot", type=Path, metavar="FILE", help=f"draw distance over offset ({', '.join(FORMATS)})")
    add_detector_flags(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> int:
        if not args.seconds >= 1:
            raise UsageError(f"--seconds is 1 or more, not {args.seconds:g}")
        videos = listed(args.videos)
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
    """By judge, what it finds in the videos that can be judged; by the others, why they cannot.

    Args:
        seconds: the most of each video; None: all of it.
    """
    found: dict[str, list[JudgeFindings]] = {judge.name: [] for judge in judges}
    reasons: dict[Path, str] = {}
    for index, path in enumerate(tqdm(videos, unit="video", disable=None)):
        try:
            source, other = open_source(path, detector, seconds), _sound(someone_else(videos, index))
            both = [examine(judge, source, other) for judge in judges]
        except (MediaError, OSError, ValueError) as error:
            reasons[path] = " ".join(str(error).split())
            continue
        for judge, findings in zip(judges, both, strict=True):
            found[judge.name].append(findings)
    return found, reasons


def _sound(path: Path | None) -> np.ndarray:
    """A file's sound, (n,) int16; none where it cannot be had."""
    try:
        samples = np.zeros(0) if path is None else load_audio(path)
    except MediaError:
        samples = np.zeros(0)
    return as_int16(samples)


def _report(found: Mapping[str, list[JudgeFindings]], reasons: Mapping[Path, str], args: argparse.Namespace) -> None:
    """Prints Markdown; writes the files that were asked for."""
    for path, reason in reasons.items():
        print(f"left out: {display_path(path)}: {reason}", file=sys.stderr)
    files = {"judge": args.judge, "syncnet": args.syncnet}
    for name, some in found.items():
        print(f"## {name}: {display_path(files[name].name)}, {len(some)} videos, {len(reasons)} left out\n")
        print(tables(some, cosine=name == "judge") if some else "None can be judged.\n")
    if args.json:
        everything = {name: summary(some) for name, some in found.items() if some}
        left = [{"video": str(path), "reason": reason} for path, reason in reasons.items()]
        write_whole(args.json, json.dumps({"judges": everything, "left_out": left}, indent=1, allow_nan=False) + "\n")
    if args.plot:
        curves = {
            f"{name}, {rung}": np.mean([one.changed[rung].curve for one in some if rung in one.changed], axis=0)
            for name, some in found.items() for rung in DRAWN if any(rung in one.changed for one in some)
        }  # fmt: skip
        plot_curves(curves, args.plot)
