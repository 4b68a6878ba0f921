"""Prepares a person for live sessions: `python -m inference.live`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from preprocessing.commands import Parser, run_command
from preprocessing.errors import MediaError, UsageError, display_path

PROGRAM = "inference.live"


def parser() -> Parser:
    """Builds the argument parser."""
    p = Parser(PROGRAM, "Prepares the person in a video or photo for live sessions, once, and saves the result.")
    p.add_argument("face", type=Path, help="video or photo of the person, best silent and calm, 5 to 60 s")
    p.add_argument("avatar", type=Path, help="file to write, ending in .avatar")
    p.add_argument("--reference", action="store_true",
                   help="leave the frames in the video, which must then stay beside the avatar, unchanged")  # fmt: skip
    p.add_argument("--fps", type=Fraction, help="frame rate (default: the video's, 25 for a photo)")
    p.add_argument("--start", type=float, help="begin of the used part, seconds")
    p.add_argument("--end", type=float, help="end of the used part, seconds")
    p.add_argument("--select", help="face to follow: largest, left, right, center or X,Y")
    p.add_argument("--resize-factor", type=int, help="divide width and height by it")
    p.add_argument("--detector", choices=("auto", "center", "yunet", "sfd", "haar"), help="face detector")
    p.add_argument("--yunet", type=Path, help="YuNet's model file (.onnx)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    flags = vars(parser().parse_args(argv))
    face, avatar, embed = flags.pop("face"), flags.pop("avatar"), not flags.pop("reference")
    options = {name: value for name, value in flags.items() if value is not None}
    return run_command(PROGRAM, lambda: prepare(face, avatar, embed, options))


def prepare(face: Path, outfile: Path, embed: bool, options: dict[str, object]) -> None:
    """Prepares and saves an avatar.

    Raises:
        MediaError: a file cannot be read or written, or no face is found.
        UsageError: an option is wrong.
    """
    _check(face, outfile)
    from inference.live.avatar_file import save_avatar
    from inference.pipeline import LipSync

    avatar = LipSync.load().avatar(face, **options)  # type: ignore[arg-type]
    try:
        save_avatar(avatar, outfile, embed=embed)
        print(f"{display_path(outfile)}: {len(avatar)} frames of {avatar.size[0]}x{avatar.size[1]}, "
              f"{len(avatar.mouths)} mouths, {outfile.stat().st_size / 1e6:.1f} MB")  # fmt: skip
    finally:
        avatar.close()


def _check(face: Path, outfile: Path) -> None:
    if outfile.suffix.lower() != ".avatar":
        raise UsageError(f"the output must end in .avatar, not {display_path(outfile.name)}")
    if face.suffix.lower() == ".avatar":
        raise UsageError(f"{display_path(face)} is prepared already")
    if not face.is_file():
        raise MediaError(f"there is no file {display_path(face)}")
    if not outfile.parent.is_dir() or outfile.is_dir():
        raise MediaError(f"{display_path(outfile)} cannot be written: choose a file in an existing folder")
