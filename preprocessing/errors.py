"""Exceptions for usage errors and unusable input; all derive from `Wav2LipError`."""

from __future__ import annotations

import os
from pathlib import Path


class Wav2LipError(Exception):
    """Base class of all deliberate errors: a one-line message that names the problem and the fix."""


class UsageError(Wav2LipError, ValueError):
    """Invalid option, argument or configuration value. Commands exit with code 2."""


class MediaError(Wav2LipError, RuntimeError):
    """A file cannot be read, written or used. Commands exit with code 1."""


class TrainingError(Wav2LipError, FloatingPointError):
    """A loss or weight is no longer finite. Commands exit with code 1."""


class CancelledError(Wav2LipError):
    """The caller cancelled the work; nothing was written."""


class OutOfMemoryError(Wav2LipError, MemoryError):
    """Not even a single item fits in device memory. Commands exit with code 1."""


def require_at_least(options: object, **least: float) -> None:
    """Checks numbers of a configuration, by the name of the attribute.

    Raises:
        UsageError: one of them is smaller than the value given here, or not a number.
    """
    for name, bound in least.items():
        if not getattr(options, name) >= bound:
            raise UsageError(f"{name} must be {bound} or more, not {getattr(options, name)}")


def display_path(path: Path | str) -> str:
    """Formats a path for messages: always on one line, whatever characters it contains."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)
