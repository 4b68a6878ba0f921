"""Command line: `python inference.py --face video.mp4 --audio speech.wav`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

from preprocessing.commands import Parser, run_command, say
from wav2lip import __version__

OUTFILE = Path("results/result_voice.mp4")
EPILOG = """\
examples:
  python inference.py --face talk.mp4 --audio dub.wav
  python inference.py --face portrait.jpg --audio speech.mp3 --outfile results/portrait.mp4
  python inference.py --face interview.mp4 --list-faces
  python inference.py --face interview.mp4 --audio answer.wav --face-id 2 --preview 3
  python inference.py --face talk.mp4 --audio dub.wav --checkpoint-path wav2lip_gan.pth

Frames without a detected face pass through unchanged; the command reports how many there are.
Use it only with the consent of the person shown. The output's metadata marks it as AI-generated.

exit codes: 0 success; 1 a file cannot be read, written or used; 2 usage error. No output file is left after an error.
"""


def program() -> str:
    """The command's name: `wav2lip` if installed, else `inference.py`."""
    return "wav2lip" if Path(sys.argv[0]).stem == "wav2lip" else "inference.py"


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the examples and lists each flag once, without its underscore spelling."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        spellings = [flag for flag in action.option_strings if "_" not in flag]
        if action.nargs == 0:
            return ", ".join(spellings)
        metavar = self._format_args(action, (action.metavar or action.dest.upper()))  # type: ignore[arg-type]
        return f"{', '.join(spellings)} {metavar}"


class _Parser(Parser):
    """Accepts every flag with dashes or, like the original Wav2Lip, with underscores."""

    def flag(self, group: argparse._ArgumentGroup, name: str, **settings: object) -> None:
        """Adds --name-with-dashes and --name_with_underscores."""
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
        group.add_argument(*spellings, **settings)  # type: ignore[arg-type]


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number (examples: 25, 29.97, 30000/1001)") from None


def parser() -> Parser:
    """Builds the argument parser; job flags have the names of the fields of `inference.options.Options`."""
    p = _Parser(
        program(), "Lip-syncs the face in a video or photo to speech.", EPILOG, prog=program(),
        formatter_class=_HelpFormatter, argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    _add_files(p)
    _add_face(p)
    _add_timing(p)
    _add_video(p)
    _add_engine(p)
    return p


def _add_files(p: _Parser) -> None:
    g = p.add_argument_group("files")
    p.flag(g, "face", type=Path, metavar="FILE", help="video or photo (jpg, png, heic, ...) of the face")
    p.flag(g, "audio", type=Path, metavar="FILE", help="audio or video file with the speech")
    p.flag(
        g, "outfile", type=Path, metavar="FILE",
        help=f"output video: .mp4, .mov, .mkv or .webm, or .gif or .webp without sound (default: {OUTFILE})",
    )  # fmt: skip
    p.flag(
        g, "config", type=Path, metavar="FILE",
        help="YAML or JSON file with any of these flags by name, and parts: who says what and when "
        "(docs/jobs.md); flags given here win",
    )  # fmt: skip
    g.add_argument(
        "--checkpoint-path", "--checkpoint", "--checkpoint_path", type=Path, metavar="FILE",
        dest="checkpoint_path",
        help="generator to use instead of the default engine: one of ours (.safetensors) or a released .pth",
    )  # fmt: skip
    p.flag(g, "save-track", type=Path, metavar="FILE", help="save the face track (JSON) for later runs")
    p.flag(g, "load-track", type=Path, metavar="FILE", help="use a saved face track instead of detection")
    p.flag(
        g, "preview", type=int, metavar="N",
        help="also write a picture of the mouth: N times six consecutive frames, before above after",
    )  # fmt: skip
    p.flag(g, "sign-cert", type=Path, metavar="FILE", help="sign the video (C2PA) with this certificate chain (PEM)")
    p.flag(g, "sign-key", type=Path, metavar="FILE", help="private key of --sign-cert (PEM)")
    p.flag(g, "sign", action="store_true", help="sign it for trying, with a self-made chain that nobody trusts")


def _add_face(p: _Parser) -> None:
    g = p.add_argument_group("face")
    p.flag(
        g, "list-faces", nargs="?", type=Path, const=None, metavar="SHEET",
        help="only list the people in --face, with a contact sheet (default: results/NAME.faces.png)",
    )  # fmt: skip
    p.flag(
        g, "select", metavar="FACE",
        help="largest, left, right, center, or pixel X,Y; speaking: whoever speaks the video's own sound; all "
        "(default: largest)",
    )  # fmt: skip
    p.flag(g, "face-id", type=int, metavar="N", help="the person with this number in --list-faces")
    p.flag(
        g, "detector", choices=("auto", "center", "yunet", "sfd", "haar"),
        help="face detector (default: auto: YuNet if its model is cached or downloadable, else center, our own)",
    )  # fmt: skip
    p.flag(g, "yunet", type=Path, metavar="FILE", help="YuNet's model file (.onnx)")
    p.flag(g, "s3fd", type=Path, metavar="FILE", help="face-alignment's S3FD weights (.pth), for --detector sfd")
    p.flag(
        g, "detect-every", type=int, metavar="N",
        help="detect faces in every N-th frame and track them in between (default: 50; 5 with --checkpoint-path)",
    )  # fmt: skip
    p.flag(
        g, "face-det-batch-size", type=int, metavar="N",
        help="accepted for compatibility with the original; no effect: detection runs on one frame at a time",
    )  # fmt: skip
    p.flag(
        g, "box", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"),
        help="use a constant face box instead of detection",
    )  # fmt: skip
    p.flag(
        g, "pads", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"),
        help="pixels added around the detected box, for released checkpoints (default: 0 10 0 0)",
    )  # fmt: skip
    p.flag(g, "nosmooth", action="store_true", help="do not smooth the face track over time")
    p.flag(
        g, "landmarks", choices=("mesh", "fan"),
        help="landmark network: ours (default), or face-alignment's FAN, which is coarser and slow without a GPU",
    )  # fmt: skip
    p.flag(g, "fan", type=Path, metavar="FILE", help="FAN's weights (.pth.tar), for --landmarks fan")


def _add_timing(p: _Parser) -> None:
    g = p.add_argument_group("timing and audio")
    p.flag(g, "start", type=float, metavar="SECONDS", help="start of the used part of the face video")
    p.flag(g, "end", type=float, metavar="SECONDS", help="end of the used part of the face video")
    p.flag(
        g, "fps", type=_fraction, metavar="FPS",
        help="frame rate of the output (default: the video's own, at least 24 and at most 60; 25 for a photo)",
    )  # fmt: skip
    p.flag(g, "static", action="store_true", help="use only the first frame of the video")
    p.flag(
        g, "sync-mode", choices=("bounce", "loop", "freeze", "cut"),
        help="if the speech is longer than the video: play the video back and forth (default), loop it, freeze its "
        "last frame, or end with the video",
    )  # fmt: skip
    p.flag(
        g, "tail", choices=("cut", "keep"), help="if the video is longer: cut it (default) or keep the rest unchanged"
    )
    p.flag(
        g, "keep-audio", type=float, metavar="LEVEL", nargs="?", const=0.2,
        help="mix in the video's own audio with this gain (1: unchanged; without a number: 0.2)",
    )  # fmt: skip
    p.flag(
        g, "audio-track", type=int, metavar="N",
        help="audio track of --audio, counting from 0 (default: the one that players start with)",
    )  # fmt: skip
    p.flag(g, "strength", type=float, metavar="X", help="scale of the lip motion, 0 to 1.5 (default: 1)")
    p.flag(
        g, "paint", action="store_true",
        help="let a network paint where the person's own open mouths fall short; no effect on a photo of closed lips",
    )  # fmt: skip
    p.flag(
        g, "photo-motion", choices=("none", "head", "full"),
        help="a photo stands still (none, default), moves its head a little (head), or also blinks where its lids are "
        "clearly seen (full)",
    )  # fmt: skip
    p.flag(
        g, "no-rest", dest="rest", action="store_false",
        help="do not bring the mouth to rest in silence",
    )  # fmt: skip


def _add_video(p: _Parser) -> None:
    g = p.add_argument_group("video")
    p.flag(g, "resize-factor", type=int, metavar="N", help="divide width and height by N")
    p.flag(g, "rotate", action="store_true", help="rotate the frames 90 degrees clockwise (after --resize-factor)")
    p.flag(
        g, "crop", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"),
        help="crop the frames (after --rotate); -1 is the far edge (default: 0 -1 0 -1)",
    )  # fmt: skip
    p.flag(
        g, "blend", choices=("feather", "multiband", "poisson", "none"),
        help="how the generated mouth is blended into the frame (default: feather)",
    )  # fmt: skip
    p.flag(g, "background", metavar="COLOR", help="shown by transparent parts: black (default), white, #00ff00, ...")
    p.flag(
        g, "preset", metavar="NAME", help="light (default), or an x264 preset, ultrafast to veryslow: slower ones "
        "write smaller files",
    )  # fmt: skip
    p.flag(g, "crf", type=float, metavar="N", help="H.264 quality, 0 (lossless) to 51 (default: 14)")


def _add_engine(p: _Parser) -> None:
    g = p.add_argument_group("engine")
    p.flag(g, "device", choices=("auto", "cpu", "cuda", "mps"), help="compute device (default: auto)")
    p.flag(
        g, "backend", choices=("auto", "torch", "openvino"),
        help="inference backend (default: auto: OpenVINO on a CPU, torch elsewhere)",
    )  # fmt: skip
    g.add_argument(
        "--batch-size", "--wav2lip-batch-size", "--batch_size", "--wav2lip_batch_size", type=int, metavar="N",
        dest="batch_size", help="faces per generator batch (default: 8; halved if memory runs out)",
    )  # fmt: skip
    p.flag(g, "profile", action="store_true", help="print CPU time by stage; stages do not overlap then")
    p.flag(g, "quiet", action="store_true", help="no progress bar")
    p.flag(g, "json", action="store_true", help="print the report as JSON; progress stays on standard error")
    g.add_argument("--version", action="version", version=f"wav2lip {__version__}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    p = parser()
    flags = vars(p.parse_args(argv))
    for name in ("box", "pads", "crop"):
        if name in flags:
            flags[name] = tuple(flags[name])
    if flags.get("box") == (-1, -1, -1, -1):
        del flags["box"]  # "no box" in the original
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    return run_command(program(), lambda: _run(p, flags), "interrupted: no output was written")


def _run(p: Parser, flags: dict[str, Any]) -> None:
    """Runs the job. Imports are deferred so that --help, usage errors and missing files take no time."""
    values = flags
    if "config" in flags:
        from inference.job import read_config

        values = read_config(flags.pop("config")) | flags
    listing = "list_faces" in values
    needed = ["face"] if listing else ["face"] if "parts" in values else ["face", "audio"]
    if missing := [f"--{name}" for name in needed if name not in values]:
        p.error(f"the following arguments are required: {', '.join(missing)}")

    from inference.command import list_people, run_one

    outfile = Path(values.setdefault("outfile", OUTFILE))
    if listing:
        sheet = values.pop("list_faces") or OUTFILE.parent / f"{Path(values['face']).stem}.faces.png"
        with default_folder(sheet):
            say(list_people(sheet, values))
        return
    with default_folder(outfile):
        say(run_one(values))


@contextmanager
def default_folder(output: Path) -> Iterator[None]:
    """Creates the folder of a default output and removes it again if the job fails."""
    missing = output.parent == OUTFILE.parent and not output.parent.exists()
    if missing:
        output.parent.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if missing:
            with suppress(OSError):  # another run's output may be in it
                output.parent.rmdir()
        raise
