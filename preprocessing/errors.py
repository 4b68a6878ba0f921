"""The exceptions that a user's mistake or unusable material raises; all share one base class, `Wav2LipError`."""

from __future__ import annotations

import os
from pathlib import Path


class Wav2LipError(Exception):
    """Base class of everything that this package raises on purpose: one line that says what is wrong and what to do."""


class UsageError(Wav2LipError, ValueError):
    """An option, argument or configuration value cannot be used. Commands exit with code 2."""


class MediaError(Wav2LipError, RuntimeError):
    """A file cannot be read, written or used. Commands exit with code 1."""


class TrainingError(Wav2LipError, FloatingPointError):
    """A loss or a weight is not finite any more. Commands exit with code 1."""


class OutOfMemoryError(Wav2LipError, MemoryError):
    """Not even one item fits into the device's memory. Commands exit with code 1."""


def display_path(path: Path | str) -> str:
    """A path as messages print it: on one line, whatever it contains."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)
