"""What all commands share: one-line refusals, exit codes, and files that are written whole or not at all.

Exit codes: 0 done; 1 a file cannot be read, written or used, or there is too little memory; 2 wrong usage; 130
interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from preprocessing.errors import Wav2LipError


class Parser(argparse.ArgumentParser):
    """A command's flags, never abbreviated; a wrong one is one line and exit code 2."""

    def __init__(
        self, program: str, description: str | None, epilog: str | None = None, **settings: Any
    ) -> None:  # fmt: skip
        """
        Args:
            program: the module that is run, e.g. "syncnet.score".
            settings: other arguments of `argparse.ArgumentParser`.
        """
        defaults: dict[str, Any] = {
            "prog": f"python -m {program}",
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
        super().__init__(description=description, epilog=epilog, allow_abbrev=False, **defaults | settings)
        self.program = program

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        sys.exit(fail(self.program, 2, f"{message} (--help explains every flag)"))


def run_command(program: str, job: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Runs a command's job and returns its exit code; an error is one line on standard error.

    Args:
        program: the name that begins the line.
        job: returns the exit code, None for 0.
        interrupted: what to say after Ctrl-C or a request to terminate.
    """
    try:
        with terminable():
            return job() or 0
    except KeyboardInterrupt:
        return fail(program, 130, interrupted)
    except ValueError as error:
        return fail(program, 2, _message(error))
    except MemoryError as error:
        return fail(program, 1, str(error) or "there is too little memory")
    except (Wav2LipError, FloatingPointError, OSError) as error:
        return fail(program, 1, error)


def _message(error: ValueError) -> str:
    """The error's text. One from a data loader's worker comes with its traceback, whose last line it is."""
    text = (str(error).splitlines() or ["a value is wrong"])[-1]
    return re.sub(r"^[\w.]*Error: ", "", text)


@contextmanager
def terminable() -> Iterator[None]:
    """Lets a request to terminate (SIGTERM) end the command as Ctrl-C does, with everything cleared away."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fail(program: str, code: int, error: object) -> int:
    """Prints one line on standard error; returns the exit code."""
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def write_whole(path: Path, text: str) -> None:
    """Writes a text file beside its final name and renames it, so that it is there whole or as it was.

    Raises:
        OSError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        part = Path(folder) / "part"
        part.write_bytes(text.encode("utf-8", "backslashreplace"))  # a file's name may be no Unicode
        os.replace(part, path)
