"""Shared by all commands: one-line errors, exit codes and atomic file writes.

Exit codes: 0 success; 1 a file cannot be read, written or used, or memory ran out; 2 usage error; 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from preprocessing.errors import Wav2LipError
from preprocessing.unfinished import UnfinishedFolder, final_path

ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT")
OUT_OF_MEMORY = (
    "insufficient memory", "failed to allocate", "can't allocate memory", "cannot allocate memory", "out of memory",
    "bad_alloc", "failed to map segment",
)  # fmt: skip


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
        interrupted: message after Ctrl-C, SIGTERM, SIGHUP or SIGQUIT.
    """
    open_standard_streams()
    try:
        with terminable():
            return job() or 0
    except KeyboardInterrupt:
        return fail(program, 130, interrupted)
    except ValueError as error:
        return fail(program, 2, _message(error))
    except (Wav2LipError, FloatingPointError) as error:
        return fail(program, 1, error)
    except Exception as error:
        if is_out_of_memory(error):
            return fail(program, 1, "out of memory")
        if isinstance(error, OSError):
            return fail(program, 1, error)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, FFmpeg, OpenCV, torch or the loader of libraries says that memory ran out."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    foreign = isinstance(error, RuntimeError | ImportError | OSError) or type(error).__module__.startswith("cv2")
    return foreign and any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def _message(error: ValueError) -> str:
    """The error's message. Errors from data-loader workers carry a traceback; the message is its last line."""
    text = (str(error).splitlines() or ["invalid value"])[-1]
    return re.sub(r"^[\w.]*Error: ", "", text)


@contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM, SIGHUP and SIGQUIT end the command the way Ctrl-C does, with full cleanup.

    A signal that the caller has set to be ignored (`nohup`) stays ignored. Outside the main thread, Python cannot
    handle signals: nothing is changed.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ENDING:
            number = getattr(signal, name, None)  # Windows has no SIGHUP and SIGQUIT
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_standard_streams() -> None:
    """Opens standard streams that are closed on the null device, so that no other file takes their place.

    Without it, the first file that is opened gets the number of standard error, and a library's message lands in it.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # also under pythonw
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - lives as long as the process


def fail(program: str, code: int, error: object) -> int:
    """Prints one line to standard error and returns the exit code."""
    _print(f"{program}: error: {' '.join(str(error).split())}", sys.stderr)
    return code


def say(text: str) -> None:
    """Prints the summary of a finished job to standard output.

    What cannot be printed (a full disk, a closed pipe, a name that the encoding lacks) does not matter any more: the
    job is done.
    """
    _print(text, sys.stdout)


def _print(text: str, stream: TextIO | None) -> None:
    """Prints and flushes, replacing characters that the encoding lacks; a stream that fails is silenced."""
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError):
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Python flushes its streams once more when it ends, and would report the failure in the exit code."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file atomically: to a temporary file in the same folder, then renamed.

    Raises:
        OSError: the file cannot be written.
    """
    path = final_path(path)
    with UnfinishedFolder(path.parent) as folder:
        part = Path(folder) / "part"
        part.write_bytes(text.encode("utf-8", "backslashreplace"))  # file names may not be valid Unicode
        os.replace(part, path)
