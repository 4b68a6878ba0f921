"""Makes videos of faces and sounds and measures them beside baselines: `python -m evaluation PAIRS --out REPORT`."""

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
from inference.generator.backends import DEVICES
from preprocessing.commands import Parser, run_command
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.detectors.flags import add_detector_flags
from training.run import INSTALL

if TYPE_CHECKING:
    from evaluation.protocols.measure import Instruments
    from evaluation.protocols.pairs import Pair
    from evaluation.report.results import Evaluation, StressResult
    from inference.pipeline import LipSync
    from preprocessing.faces.face_track import FaceDetector

PROGRAM = "evaluation"
KINDS = ("pairs", "lrs2", "lrs3", "lrw", "resynced")
RATE = 25  # frames a second of the original's evaluation
NEEDED = ("torchmetrics", "matplotlib")
EPILOG = """\
PAIRS is a text with a face's and a sound's path in each line, or a .csv with the columns face and audio and, if wanted,
name and speaker; relative paths begin at its folder. With --list it is one of the original's test lists.

Protocols: matched (each face with its own sound), swapped (with another's: the listed one, else that of another person
in the list), silent (with silence), stills (two stills of the face with its own sound). Beside the systems stand the
baselines real, unsynced, copy and static. NAME names a system's rows; the first checkpoint is called "ours".
A folder of --made holds PROTOCOL/NAME.mp4, or NAME.mp4 for the listed pairs, by the names that clips.csv shows.

The report's folder receives report.html, report.json, clips.csv and the videos; videos that are there already, made of
the same files in the same way, are not made again. What cannot be made or measured has its row too, with the reason.

exit codes: 0 every video of every system is measured; 1 some are not, see the report; 2 a wrong flag or list;
130 interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = Parser(PROGRAM, __doc__, EPILOG)
    p.add_argument("pairs", type=Path, metavar="PAIRS", help="the list of faces and sounds")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the report's folder")
    g = p.add_argument_group("systems")
    g.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="[NAME=]FILE",
        help="generators, ours (.safetensors) or released (.pth); default: the embedded one, unless --made is given",
    )  # fmt: skip
    g.add_argument("--made", nargs="+", default=[], metavar="[NAME=]FOLDER", help="videos that were made already")
    g = p.add_argument_group("what is made")
    g.add_argument(
        "--protocol", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS), help="default: all four",
    )  # fmt: skip
    g.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="of each video at most (default: 6)")
    g.add_argument("--list", choices=KINDS, default="pairs", help="what PAIRS is; the original's need --data-root")
    g.add_argument("--data-root", type=Path, metavar="FOLDER", help="where the files that PAIRS names begin")
    g.add_argument(
        "--fps", type=int, metavar="N",
        help=f"bring faces to this rate first (default: their own; {RATE} for the original's lists)",
    )  # fmt: skip
    g.add_argument("--stress", action="store_true", help="try hard inputs too, made of the list's first two faces")
    g = p.add_argument_group("instruments")
    g.add_argument("--judge", type=Path, metavar="FILE", help="another expert than the embedded judge")
    g.add_argument("--syncnet", type=Path, metavar="FILE", help="syncnet_v2.model, for LSE-D and LSE-C")
    g.add_argument("--inception", type=Path, metavar="FILE", help="pt_inception-2015-12-05-6726825d.pth, for FID")
    g = p.add_argument_group("engine")
    add_detector_flags(g)
    g.add_argument("--device", choices=DEVICES, default="auto", help="where generators compute (default: auto)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> int:
        if missing := [name for name in NEEDED if find_spec(name) is None]:
            raise UsageError(f"an evaluation needs {' and '.join(missing)}: {INSTALL}")
        evaluation = evaluate(args)

        from evaluation.report.files import counts, write
        from evaluation.report.table import markdown, tables

        write(evaluation, args.out)
        for table in tables(evaluation):
            print(markdown(table))
        found = counts(evaluation.rows)
        print(
            f"{found['measured']} of {found['videos']} videos are measured; see {display_path(args.out / 'report.html')}"
        )
        return 1 if found["failed"] else 0

    return run_command(PROGRAM, job, "interrupted; the same command goes on with the videos that are made")


def evaluate(args: argparse.Namespace) -> Evaluation:
    """What the flags ask for.

    Raises:
        UsageError: a flag, the list or a file of weights is wrong.
    """
    from evaluation.protocols.generate_videos import VideoMaker
    from evaluation.protocols.pairs import digest
    from evaluation.protocols.run import EvaluationRun
    from evaluation.protocols.trials import trials
    from evaluation.report.results import Evaluation
    from inference.pipeline import LipSync
    from preprocessing.faces.detectors import load_detector

    pairs = _pairs(args)
    two = _two_people(pairs) if args.stress else None
    wanted = trials(pairs, args.protocol, args.seconds)
    checkpoints, made = _systems(args.checkpoint, args.made)
    instruments = _instruments(args)
    detector = load_detector(args.detector, yunet=args.yunet, sfd=args.s3fd)
    options = {"detector": args.detector, "yunet": args.yunet, "s3fd": args.s3fd}
    models = {name: LipSync.load(path, args.device) for name, path in checkpoints.items()}
    fps = args.fps or (None if args.list == "pairs" else RATE)
    maker = VideoMaker(args.out, detector, models, args.seconds, options, fps)
    args.out.mkdir(parents=True, exist_ok=True)
    rows, wholes = EvaluationRun(maker, made, instruments).evaluate(wanted)
    stress = _trials(args.out, two, models, detector, options) if two else []
    settings = {"pairs": display_path(args.pairs.name), "pairs_sha256": digest(pairs), "fps": fps or "the face's own"}
    settings |= _settings(args, models)
    return Evaluation(settings, rows, wholes, stress)


def _pairs(args: argparse.Namespace) -> list[Pair]:
    from evaluation.protocols.pairs import read_list, read_pairs

    if args.list == "pairs":
        return read_pairs(args.pairs, args.data_root)
    if args.data_root is None:
        raise UsageError(f"--list {args.list} needs --data-root: the ids in it are paths below that folder")
    return read_list(args.pairs, args.data_root, args.list)


def _systems(checkpoints: Sequence[str], made: Sequence[str]) -> tuple[dict[str, Path | None], dict[str, Path]]:
    """Files and folders by the names of their rows; a generator's file of None is the embedded one."""
    found: dict[str, Path | None] = {}
    for given in checkpoints:
        name, path = _named(given, "" if found else OURS)
        _add(found, name, path)
    if not checkpoints and not made:
        found[OURS] = None
    folders: dict[str, Path | None] = {}
    for given in made:
        name, path = _named(given, "")
        if not path.is_dir():
            raise UsageError(f"--made {display_path(path)} is no folder")
        if name in found:
            raise UsageError(f"two systems are called {name!r}: name them, NAME=FOLDER")
        _add(folders, name, path)
    return found, {name: path for name, path in folders.items() if path}


def _named(given: str, otherwise: str) -> tuple[str, Path]:
    """[NAME=]PATH: its name, else `otherwise`, else the path's stem."""
    name, equals, path = given.partition("=")
    if not equals or "/" in name or Path(given).exists():
        return otherwise or Path(given).resolve().stem, Path(given)
    return name, Path(path)


def _add(found: dict[str, Path | None], name: str, path: Path) -> None:
    from evaluation.protocols.pairs import safe_name

    if name in BASELINES or not name or name != safe_name(name):
        raise UsageError(f"a system cannot be called {name!r}: name it by letters, digits, . and -, NAME={path}")
    if name in found:
        raise UsageError(f"two systems are called {name!r}: name them, NAME=FILE")
    found[name] = path


def _instruments(args: argparse.Namespace) -> Instruments:
    from evaluation.metrics.face_encoder import FaceEncoder
    from evaluation.metrics.inception import InceptionEncoder
    from evaluation.protocols.measure import Instruments
    from syncnet.lse import PublishedScorer, load_published
    from syncnet.sync_expert import JUDGE, SyncExpert

    published = PublishedScorer(load_published(args.syncnet)) if args.syncnet else None
    inception = InceptionEncoder.load(args.inception) if args.inception else None
    return Instruments(SyncExpert.load(args.judge or JUDGE), FaceEncoder.load(), published, inception)


def _two_people(pairs: Sequence[Pair]) -> tuple[Pair, Pair]:
    """The list's first pair, and the first of another person, else of another face.

    Raises:
        UsageError: there is one face only.
    """
    first = pairs[0]
    others = [pair for pair in pairs if pair.face != first.face]
    if not others:
        raise UsageError("--stress needs two faces in the list")
    return first, next((pair for pair in others if pair.speaker != first.speaker), others[0])


def _trials(
    out: Path, two: tuple[Pair, Pair], models: Mapping[str, LipSync], detector: FaceDetector, options: dict[str, Any]
) -> list[StressResult]:  # fmt: skip
    """Hard inputs made of two faces and the first one's sound; what they cannot be made of fails as a whole."""
    from evaluation.protocols.robustness import try_all
    from evaluation.protocols.stress import stress
    from evaluation.report.results import StressResult

    first, second = two
    try:
        hards = stress(first.face, second.face, first.audio, out / "hard inputs", detector)
    except (MediaError, OSError) as error:
        reason = f"no hard inputs could be made: {' '.join(str(error).split())}"
        return [StressResult("all", system, False, reason) for system in models]
    return try_all(hards, models, out, **options)


def _settings(args: argparse.Namespace, models: Mapping[str, LipSync]) -> dict[str, object]:
    """What a reader needs to know to get the same figures."""
    from evaluation.metrics.face_encoder import WEIGHTS
    from evaluation.protocols.pairs import fingerprint
    from syncnet.sync_expert import JUDGE

    files = {
        f"{path.stem} of {name}": path
        for name, model in models.items()
        for path in (model.engine.provenance() or ([], ""))[0]
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
        except ModuleNotFoundError:  # PackageNotFoundError: one of OpenCV's two wheels is there
            continue
    return found | {"python": platform.python_version(), "machine": platform.machine()}


if __name__ == "__main__":
    sys.exit(main())
