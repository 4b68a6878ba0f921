"""What commands share: flags refused in one line, those of the face detector, how one fails, how one writes."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from preprocessing.faces.detectors import DETECTORS


class Parser(argparse.ArgumentParser):
    """A command's flags, never abbreviated; a wrong one is one line and exit code 2."""

    def __init__(self, program: str, description: str | None, epilog: str | None = None) -> None:
        """`program`: the module that is run, e.g. "syncnet.score"."""
        super().__init__(
            prog=f"python -m {program}", description=description, epilog=epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        self.program = program

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        sys.exit(fail(self.program, 2, f"{message} (--help explains every flag)"))


def add_detector_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`detector`, `yunet` and `s3fd`, as `load_detector` takes them."""
    parser.add_argument("--detector", choices=DETECTORS, default="auto", help="who finds faces (default: auto)")
    parser.add_argument("--yunet", type=Path, metavar="FILE", help="YuNet's model file (.onnx)")
    parser.add_argument(
        "--s3fd", type=Path, metavar="FILE", help="face-alignment's S3FD weights (.pth), for --detector sfd"
    )


def fail(program: str, code: int, error: object) -> int:
    """Says in one line of standard error what is wrong; returns the exit code."""
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def write_whole(path: Path, text: str) -> None:
    """Writes a text beside its name first, so that the file is there whole or as it was.

    Raises:
        OSError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        part = Path(folder) / "part"
        part.write_bytes(text.encode("utf-8", "backslashreplace"))  # a file's name may be no Unicode
        os.replace(part, path)
