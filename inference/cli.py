"""The command: `python inference.py --face video.mp4 --audio speech.wav`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.commands import Parser, run_command

if TYPE_CHECKING:
    from inference.generator.engine import Adapter
    from inference.options import Report

OUTFILE = Path("results/result_voice.mp4")
EPILOG = """\
examples:
  python inference.py --face talk.mp4 --audio dub.wav
  python inference.py --face portrait.jpg --audio speech.mp3 --outfile results/portrait.mp4
  python inference.py --face interview.mp4 --audio answer.wav --select left --preview 8
  python inference.py --face talk.mp4 --audio dub.wav --checkpoint-path wav2lip_gan.pth
  python inference.py --face talk.mp4 --audio dub.wav --adapt

Pictures in which the face is not found stay as they are, and the command says how many there are.
Use it only with the consent of the person shown. The result's metadata says that it is AI-generated.

exit codes: 0 done; 1 a file cannot be read, written or used; 2 a wrong flag. After an error no output file is left.
"""


def program() -> str:
    """The command's name: `wav2lip` where it is installed, else `inference.py`."""
    return "wav2lip" if Path(sys.argv[0]).stem == "wav2lip" else "inference.py"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines and shows one spelling of each flag: the original's underscores work everywhere."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        spellings = [flag for flag in action.option_strings if "_" not in flag]
        if action.nargs == 0:
            return ", ".join(spellings)
        metavar = self._format_args(action, (action.metavar or action.dest.upper()))  # type: ignore[arg-type]
        return f"{', '.join(spellings)} {metavar}"


class _Parser(Parser):
    """Every flag may be written with dashes or, as the original's are, with underscores."""

    def flag(self, group: argparse._ArgumentGroup, name: str, **settings: object) -> None:
        """Adds --name-with-dashes and --name_with_underscores."""
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
        group.add_argument(*spellings, **settings)  # type: ignore[arg-type]


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 25, 29.97 or 30000/1001") from None


def parser() -> argparse.ArgumentParser:
    """The command's flags. Those that shape the job are named as `inference.options.Options` names them."""
    p = _Parser(
        program(), "Makes the face in a video or photo speak the given speech.", EPILOG, prog=program(),
        formatter_class=_Help, argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    _add_files(p)
    _add_face(p)
    _add_timing(p)
    _add_picture(p)
    _add_engine(p)
    return p


def _add_files(p: _Parser) -> None:
    g = p.add_argument_group("files")
    p.flag(g, "face", type=Path, required=True, metavar="FILE", help="video or photo (jpg, png, webp) with the face")
    p.flag(g, "audio", type=Path, required=True, metavar="FILE", help="sound or video file with the speech")
    p.flag(
        g, "outfile", type=Path, metavar="FILE", default=OUTFILE,
        help=f"the result: .mp4, .mov or .mkv (default: {OUTFILE})",
    )  # fmt: skip
    g.add_argument(
        "--checkpoint-path", "--checkpoint", "--checkpoint_path", type=Path, metavar="FILE", default=None,
        dest="checkpoint_path",
        help="generator: one of ours (.safetensors) or a released .pth (default: the embedded one)",
    )  # fmt: skip
    p.flag(g, "save-track", type=Path, metavar="FILE", help="keep where the face is (JSON) for a second take")
    p.flag(g, "load-track", type=Path, metavar="FILE", help="take the face's place from such a file: no detection")
    p.flag(
        g, "preview", type=int, metavar="N",
        help="also write a contact sheet of N pictures, before and after, beside the video",
    )  # fmt: skip


def _add_face(p: _Parser) -> None:
    g = p.add_argument_group("the face")
    p.flag(g, "select", metavar="WHOM", help="largest, left, right, center, or the pixel X,Y (default: largest)")
    p.flag(g, "face-id", type=int, metavar="N", help="follow the N-th person to appear instead, from 0 on")
    p.flag(
        g, "detector", choices=("auto", "yunet", "sfd", "haar"),
        help="who finds faces (default: auto: YuNet when its file is there or can be fetched, else OpenCV's cascade)",
    )  # fmt: skip
    p.flag(g, "yunet", type=Path, metavar="FILE", help="YuNet's model file (.onnx)")
    p.flag(g, "s3fd", type=Path, metavar="FILE", help="face-alignment's S3FD weights (.pth), for --detector sfd")
    p.flag(
        g, "detect-every", type=int, metavar="N",
        help="look for faces in every N-th frame, follow them in between (default: 50; with --checkpoint-path 5)",
    )  # fmt: skip
    p.flag(
        g, "face-det-batch-size", type=int, metavar="N",
        help="taken for the original's scripts, without effect: key pictures are looked at one at a time",
    )  # fmt: skip
    p.flag(
        g, "box", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"),
        help="a constant face box instead of a detector",
    )  # fmt: skip
    p.flag(
        g, "pads", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"),
        help="pixels added to the detected box, for released checkpoints (default: 0 10 0 0)",
    )  # fmt: skip
    p.flag(g, "nosmooth", action="store_true", help="do not smooth the face's place over time")


def _add_timing(p: _Parser) -> None:
    g = p.add_argument_group("timing and sound")
    p.flag(g, "start", type=float, metavar="SECONDS", help="use the face's video from here on")
    p.flag(g, "end", type=float, metavar="SECONDS", help="use the face's video up to here")
    p.flag(g, "fps", type=_fraction, metavar="FPS", help="pictures in a second of a photo's video (default: 25)")
    p.flag(g, "static", action="store_true", help="use only the video's first picture")
    p.flag(
        g, "sync-mode", choices=("bounce", "loop", "freeze", "cut"),
        help="when the speech is longer than the video: play it back and forth (default), again from the start, hold "
        "its last picture, or end with it",
    )  # fmt: skip
    p.flag(g, "tail", choices=("cut", "keep"), help="when the video is longer: cut it (default) or keep the rest as is")
    p.flag(
        g, "keep-audio", type=float, metavar="LEVEL", nargs="?", const=0.2,
        help="leave the video's own sound under the speech at this level (1: as it is; without a number: 0.2)",
    )  # fmt: skip
    p.flag(g, "strength", type=float, metavar="X", help="how much the lips move, 0 to 1.5 (default: 1)")
    p.flag(
        g, "no-rest", dest="rest", action="store_false",
        help="do not bring the mouth to rest where the speech is silent",
    )  # fmt: skip


def _add_picture(p: _Parser) -> None:
    g = p.add_argument_group("picture")
    p.flag(g, "resize-factor", type=int, metavar="N", help="divide width and height by N first")
    p.flag(g, "rotate", action="store_true", help="turn the picture a quarter clockwise first")
    p.flag(
        g, "crop", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"),
        help="cut the picture after that; -1 is its edge (default: 0 -1 0 -1)",
    )  # fmt: skip
    p.flag(
        g, "blend", choices=("feather", "multiband", "poisson", "none"),
        help="how the new mouth is joined to the picture (default: feather)",
    )  # fmt: skip
    p.flag(g, "crf", type=float, metavar="N", help="quality of H.264, 0 (lossless) to 51 (default: 14)")


def _add_engine(p: _Parser) -> None:
    g = p.add_argument_group("engine")
    p.flag(g, "device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute (default: auto)")
    p.flag(
        g, "backend", choices=("auto", "torch", "openvino"), default="auto",
        help="what computes (default: auto: OpenVINO on a CPU, torch elsewhere)",
    )  # fmt: skip
    g.add_argument(
        "--batch-size", "--wav2lip-batch-size", "--batch_size", "--wav2lip_batch_size", type=int, metavar="N",
        dest="batch_size", help="faces that the generator sees at once (default: 8; halved when memory runs out)",
    )  # fmt: skip
    p.flag(
        g, "adapt", action="store_true",
        help="first learn how this person speaks, from the face's video and its own sound; minutes on a CPU, and "
        "wav2lip.adapt keeps what is learnt for further jobs",
    )  # fmt: skip
    p.flag(g, "adapt-steps", type=int, metavar="N", help="training steps of --adapt (default: 200)")
    p.flag(g, "quiet", action="store_true", default=False, help="no progress bar")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    flags = vars(parser().parse_args(argv))
    for name in ("box", "pads", "crop"):
        if name in flags:
            flags[name] = tuple(flags[name])
    if flags.get("box") == (-1, -1, -1, -1):
        del flags["box"]  # the original's way to say "no box"
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> None:
        with _folder_of_results(flags["outfile"]):
            print(summary(_run(**flags)))

    return run_command(program(), job, "interrupted: no output was written")


def _run(
    face: Path, audio: Path, outfile: Path, checkpoint_path: Path | None, device: str, backend: str, quiet: bool,
    **options: Any,
) -> Report:  # fmt: skip
    """The job. Imports wait until they are needed: --help, a wrong flag and a missing file are answered at once."""
    from inference.file_checks import check_files
    from inference.options import Options

    check_files(face, audio, outfile, Options(**options), checkpoint_path)

    from inference.pipeline import LipSync
    from training.progress import ProgressBars

    with ProgressBars(quiet) as bars:
        model = LipSync.load(checkpoint_path, device, backend, _adapter() if options.get("adapt") else None)
        display_path = partial(bars.show, "frame")
        return model(face, audio, outfile, progress=display_path, analysis_progress=bars.show, **options)


def _adapter() -> Adapter:
    """Imported only where it is used: it brings the trainer's modules along."""
    from inference.generator.adaptation import adapt_to_face

    return adapt_to_face


@contextmanager
def _folder_of_results(outfile: Path) -> Iterator[None]:
    """Makes the default output's folder, and takes it away again when nothing came of it."""
    missing = outfile == OUTFILE and not outfile.parent.exists()
    if missing:
        outfile.parent.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if missing:
            with suppress(OSError):  # another run's output may be in it
                outfile.parent.rmdir()
        raise


def summary(report: Report) -> str:
    """What a job did, in a few lines."""
    from preprocessing.errors import display_path

    seconds, total = report.seconds, report.seconds["total"]
    length = report.frames / float(report.fps)
    lines = [f"{display_path(report.outfile)}: {report.frames} frames, {length:.2f} s, made in {total:.1f} s"]
    if untouched := report.frames - report.faces:
        lines.append(f"{untouched} of them show no face (or lie after the speech) and stay as they are")
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items() if stage != "total")
    lines.append(f"seconds by stage, which overlap: {stages}")
    if report.preview:
        lines.append(f"before and after: {display_path(report.preview)}")
    return "\n".join(lines)
