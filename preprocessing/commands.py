"""Shared by all commands: one-line errors, exit codes and atomic file writes.

Exit codes: 0 success; 1 a file cannot be read, written or used, or memory ran out; 2 usage error; 130 interrupted.
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
    """Argument parser without abbreviated flags; errors print one line and exit with code 2."""

    def __init__(
        self, program: str, description: str | None, epilog: str | None = None, **settings: Any
    ) -> None:  # fmt: skip
        """
        Args:
            program: name of the module to run, e.g. "syncnet.score".
            settings: other arguments of `argparse.ArgumentParser`.
        """
        defaults: dict[str, Any] = {
            "prog": f"python -m {program}",
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
        super().__init__(description=description, epilog=epilog, allow_abbrev=False, **defaults | settings)
        self.program = program

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits with code 2."""
        sys.exit(fail(self.program, 2, f"{message} (--help explains every flag)"))


def run_command(program: str, job: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Runs a command's job and returns the exit code; errors print one line to standard error.

    Args:
        program: name that prefixes the error line.
        job: returns the exit code, None for 0.
        interrupted: message after Ctrl-C or SIGTERM.
    """
    try:
        with terminable():
            return job() or 0
    except KeyboardInterrupt:
        return fail(program, 130, interrupted)
    except ValueError as error:
        return fail(program, 2, _message(error))
    except MemoryError as error:
        return fail(program, 1, str(error) or "out of memory")
    except (Wav2LipError, FloatingPointError, OSError) as error:
        return fail(program, 1, error)


def _message(error: ValueError) -> str:
    """The error's message. Errors from data-loader workers carry a traceback; the message is its last line."""
    text = (str(error).splitlines() or ["invalid value"])[-1]
    return re.sub(r"^[\w.]*Error: ", "", text)


@contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM end the command the way Ctrl-C does, with full cleanup."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fail(program: str, code: int, error: object) -> int:
    """Prints one line to standard error and returns the exit code."""
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def write_whole(path: Path, text: str) -> None:
    """Writes a text file atomically: to a temporary file in the same folder, then renamed.

    Raises:
        OSError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        part = Path(folder) / "part"
        part.write_bytes(text.encode("utf-8", "backslashreplace"))  # file names may not be valid Unicode
        os.replace(part, path)
