"""Options of a job as a client sends them: those of the command, except for what only the service may decide."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from inference.options import PATH_OPTIONS, Options
from preprocessing.errors import UsageError

# A client names no file and chooses no networks, no signature and no amount of memory.
SERVICE_OPTIONS = PATH_OPTIONS | {
    "detector", "batch_size", "face_det_batch_size", "preview", "sign",
}  # fmt: skip
MAX_TEXT = 10_000  # characters


def client_options() -> list[str]:
    """Names of the options that a client may set."""
    return [item.name for item in fields(Options) if item.name not in SERVICE_OPTIONS]


def parse_options(text: str) -> dict[str, Any]:
    """Reads a JSON object of options and checks it as the command does.

    Returns:
        The values as they were sent, by their names with underscores.

    Raises:
        UsageError: not a JSON object, or an option is unknown, not offered, of the wrong type or out of range.
    """
    values = _json_object(text)
    offered = client_options()
    named = {name.replace("-", "_"): value for name, value in values.items()}
    if refused := sorted(named.keys() - set(offered)):
        raise UsageError(f"{refused[0]!r} is not an option of this service; known: {', '.join(offered)}")
    Options.of(named)
    return named


def _json_object(text: str) -> dict[str, Any]:
    if len(text) > MAX_TEXT:
        raise UsageError(f"options must have at most {MAX_TEXT} characters")
    try:
        values = json.loads(text or "{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError('options must be a JSON object, such as {"strength": 0.8}') from error
    if not isinstance(values, dict):
        raise UsageError('options must be a JSON object, such as {"strength": 0.8}')
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
