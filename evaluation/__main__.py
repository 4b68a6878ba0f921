"""Generate lip-synced videos and measure them against baselines: `python -m evaluation PAIRS --out REPORT`."""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.report.results import BASELINES, OURS, PROTOCOLS, SECONDS
from inference.options import DEVICES, Options
from preprocessing.commands import Parser, run_command, say
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.detectors.flags import add_detector_flags

if TYPE_CHECKING:
    from evaluation.protocols.measure import MetricNetworks
    from evaluation.protocols.pairs import Pair
    from evaluation.report.results import Evaluation, StressResult
    from inference.pipeline import LipSync
    from preprocessing.faces.face_track import FaceDetector

PROGRAM = "evaluation"
KINDS = ("pairs", "lrs2", "lrs3", "lrw", "resynced")
ORIGINAL_FPS = 25  # frame rate of the original Wav2Lip evaluation
DEFAULT_ENGINE = Path("default")  # the word that stands for it in --checkpoint
REQUIRED = ("torchmetrics", "matplotlib")
EPILOG = """\
PAIRS is a text file with a face path and an audio path per line, or a .csv with the columns face and audio and
optionally name and speaker; relative paths start at its folder. With --list it is one of the original test lists.

Protocols: matched (each face with its own audio), swapped (with another speaker's audio: the listed one, or that of
another person in the list), silent (with silence), stills (two stills of the face with its own audio). The baselines
real, unsynced, copy and static are measured as well. NAME labels a system's rows; the first checkpoint is "ours".
A folder passed with --made holds PROTOCOL/NAME.mp4, or NAME.mp4 for listed pairs, under the names in clips.csv.

The output folder receives report.html, report.json, clips.csv and the videos. Existing videos made from the same files
with the same settings are reused. A video that cannot be generated or measured keeps its row, with the reason.

exit codes: 0 all videos were measured; 1 some were not, see the report; 2 invalid flag or list; 130 interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    p = Parser(PROGRAM, __doc__, EPILOG)
    p.add_argument("pairs", type=Path, metavar="PAIRS", help="list of face and audio files")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="output folder for report and videos")
    g = p.add_argument_group("systems")
    g.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="[NAME=]FILE",
        help="generators, ours (.safetensors) or released (.pth), or the word default for the default engine, which is "
        "also evaluated without this flag, unless --made is given",
    )  # fmt: skip
    g.add_argument("--made", nargs="+", default=[], metavar="[NAME=]FOLDER", help="existing videos of other systems")
    g = p.add_argument_group("input")
    g.add_argument(
        "--protocol", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS), help="protocols to run (default: all)",
    )  # fmt: skip
    g.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="max length per video (default: 6)")
    g.add_argument("--list", choices=KINDS, default="pairs", help="format of PAIRS; all but pairs need --data-root")
    g.add_argument("--data-root", type=Path, metavar="FOLDER", help="root folder of the paths in PAIRS")
    g.add_argument(
        "--fps", type=int, metavar="N",
        help=f"convert faces to this frame rate first (default: unchanged; {ORIGINAL_FPS} for the original test lists)",
    )  # fmt: skip
    g.add_argument("--stress", action="store_true", help="also test hard inputs made from the first two faces")
    g = p.add_argument_group("metrics")
    g.add_argument("--judge", type=Path, metavar="FILE", help="sync expert to use instead of the embedded judge")
    g.add_argument("--syncnet", type=Path, metavar="FILE", help="syncnet_v2.model, for LSE-D and LSE-C")
    g.add_argument("--inception", type=Path, metavar="FILE", help="pt_inception-2015-12-05-6726825d.pth, for FID")
    g.add_argument(
        "--mesh-python", type=Path, metavar="PYTHON",
        help="interpreter of an environment with MediaPipe, to judge mouth shape; default: our own landmark network",
    )  # fmt: skip
    g = p.add_argument_group("engine")
    add_detector_flags(g)
    g.add_argument("--device", choices=DEVICES, default="auto", help="device for the generators (default: auto)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> int:
        if missing := [name for name in REQUIRED if find_spec(name) is None]:
            from training.run import INSTALL  # imports torch

            raise UsageError(f"evaluation requires {' and '.join(missing)}: {INSTALL}")
        evaluation = evaluate(args)

        from evaluation.report.files import counts, write
        from evaluation.report.table import markdown, tables

        write(evaluation, args.out)
        for table in tables(evaluation):
            say(markdown(table))
        total = counts(evaluation.rows)
        report = display_path(args.out / "report.html")
        say(f"Measured {total['measured']} of {total['videos']} videos; see {report}")
        return 1 if total["failed"] else 0

    return run_command(PROGRAM, job, "interrupted; run the same command again to resume")


def evaluate(args: argparse.Namespace) -> Evaluation:
    """Run the evaluation described by the parsed flags.

    Raises:
        UsageError: a flag, the list or a weights file is invalid.
    """
    from evaluation.metrics.mesh.judges import mesh_judge
    from evaluation.metrics.sync import judged_offset
    from evaluation.protocols.generate_videos import VideoMaker
    from evaluation.protocols.mouths import MouthMeasurement
    from evaluation.protocols.pairs import digest
    from evaluation.protocols.run import EvaluationRun
    from evaluation.protocols.trials import make_trials
    from evaluation.report.results import Evaluation
    from inference.pipeline import LipSync
    from preprocessing.faces.detectors import load_detector

    pairs = _pairs(args)
    two = _two_people(pairs) if args.stress else None
    planned = make_trials(pairs, args.protocol, args.seconds)
    checkpoints, made = _systems(args.checkpoint, args.made)
    networks = _metric_networks(args)
    detector = load_detector(args.detector, yunet=args.yunet, sfd=args.s3fd)
    mouths = MouthMeasurement(mesh_judge(args.mesh_python, detector), args.seconds, judged_offset(detector))
    options = {"detector": args.detector, "yunet": args.yunet, "s3fd": args.s3fd}
    models = {name: LipSync.load(path, args.device) for name, path in checkpoints.items()}
    fps = args.fps or (None if args.list == "pairs" else ORIGINAL_FPS)
    maker = VideoMaker(args.out, detector, models, args.seconds, options, fps)
    args.out.mkdir(parents=True, exist_ok=True)
    rows, system_metrics = EvaluationRun(maker, made, networks, mouths).evaluate(planned)
    stress = _stress_trials(args.out, two, models, detector, options) if two else []
    settings = {"pairs": display_path(args.pairs.name), "pairs_sha256": digest(pairs), "fps": fps or "source"}
    settings |= _settings(args, models) | {"mesh": mouths.judge.name}
    return Evaluation(settings, rows, system_metrics, stress)


def _pairs(args: argparse.Namespace) -> list[Pair]:
    from evaluation.protocols.pairs import read_list, read_pairs

    if args.list == "pairs":
        return read_pairs(args.pairs, args.data_root)
    if args.data_root is None:
        raise UsageError(f"--list {args.list} requires --data-root: its ids are paths below that folder")
    return read_list(args.pairs, args.data_root, args.list)


def _systems(checkpoints: Sequence[str], made: Sequence[str]) -> tuple[dict[str, Path | None], dict[str, Path]]:
    """Checkpoints and video folders by system name; a checkpoint of None is the default engine."""
    found: dict[str, Path | None] = {}
    for given in checkpoints:
        name, path = _parse_named_path(given, "" if found else OURS)
        _add(found, name, None if path == DEFAULT_ENGINE else path)
    if not checkpoints and not made:
        found[OURS] = None
    folders: dict[str, Path | None] = {}
    for given in made:
        name, path = _parse_named_path(given, "")
        if not path.is_dir():
            raise UsageError(f"--made {display_path(path)} is not a folder")
        if name in found:
            raise UsageError(f"two systems are named {name!r}: rename one with NAME=FOLDER")
        _add(folders, name, path)
    return found, {name: path for name, path in folders.items() if path}


def _parse_named_path(given: str, default: str) -> tuple[str, Path]:
    """Split [NAME=]PATH; the name falls back to `default`, then to the path's stem."""
    name, equals, path = given.partition("=")
    if not equals or "/" in name or Path(given).exists():
        return default or Path(given).resolve().stem, Path(given)
    return name, Path(path)


def _add(found: dict[str, Path | None], name: str, path: Path | None) -> None:
    from evaluation.protocols.pairs import safe_name

    if name in BASELINES or not name or name != safe_name(name):
        raise UsageError(
            f"invalid system name {name!r}: use letters, digits, . and -, as in NAME={path or DEFAULT_ENGINE}"
        )
    if name in found:
        raise UsageError(f"two systems are named {name!r}: rename one with NAME=FILE")
    found[name] = path


def _metric_networks(args: argparse.Namespace) -> MetricNetworks:
    from evaluation.metrics.face_encoder import FaceEncoder
    from evaluation.metrics.inception import InceptionEncoder
    from evaluation.protocols.measure import MetricNetworks
    from syncnet.scoring.lse import PublishedScorer, load_published
    from syncnet.sync_expert import JUDGE, SyncExpert

    published = PublishedScorer(load_published(args.syncnet)) if args.syncnet else None
    inception = InceptionEncoder.load(args.inception) if args.inception else None
    return MetricNetworks(SyncExpert.load(args.judge or JUDGE), FaceEncoder.load(), published, inception)


def _two_people(pairs: Sequence[Pair]) -> tuple[Pair, Pair]:
    """The first pair of the list and the first of another person, or at least of another face.

    Raises:
        UsageError: the list has only one face.
    """
    first = pairs[0]
    others = [pair for pair in pairs if pair.face != first.face]
    if not others:
        raise UsageError("--stress requires two faces in the list")
    return first, next((pair for pair in others if pair.speaker != first.speaker), others[0])


def _stress_trials(
    out: Path, two: tuple[Pair, Pair], models: Mapping[str, LipSync], detector: FaceDetector, options: dict[str, Any]
) -> list[StressResult]:  # fmt: skip
    """Run all systems on hard inputs made from two faces and the first one's audio; if none can be made, all fail."""
    from evaluation.protocols.robustness import run_stress
    from evaluation.protocols.stress import make_hard_inputs
    from evaluation.report.results import StressResult

    first, second = two
    try:
        inputs = make_hard_inputs(first.face, second.face, first.audio, out / "hard inputs", detector)
    except (MediaError, OSError) as error:
        reason = f"cannot make hard inputs: {' '.join(str(error).split())}"
        return [StressResult("all", system, False, reason) for system in models]
    return run_stress(inputs, models, out, **options)


def _settings(args: argparse.Namespace, models: Mapping[str, LipSync]) -> dict[str, object]:
    """Everything needed to reproduce the metrics."""
    from evaluation.metrics.face_encoder import WEIGHTS
    from evaluation.protocols.pairs import fingerprint
    from syncnet.sync_expert import JUDGE

    files = {
        f"{path.stem} of {name}": path
        for name, model in models.items()
        for path in (model.engine.provenance(Options()) or ([], ""))[0]
    }
    files |= {"judge": args.judge or JUDGE, "encoder": WEIGHTS}
    files |= {name: path for name, path in (("syncnet", args.syncnet), ("inception", args.inception)) if path}
    found: dict[str, object] = {"seconds": args.seconds, "list": args.list}
    found |= {name: f"{display_path(path.name)}, SHA-256 {fingerprint(path)}" for name, path in files.items()}
    found["detector"] = args.detector
    packages = ("torch", "opencv-python", "opencv-python-headless", "av", "torchmetrics")
    for package in packages:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:  # PackageNotFoundError: only one of the two OpenCV wheels is installed
            continue
    return found | {"python": platform.python_version(), "machine": platform.machine()}


if __name__ == "__main__":  # the networks take seconds to load
    print(f"{PROGRAM}: starting", file=sys.stderr, flush=True)
    sys.exit(main())
