"""Training options: dataclasses whose fields are command-line flags and YAML keys."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from preprocessing.errors import UsageError
from training.run import INSTALL

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Options = TypeVar("Options")


def parse_options(argv: Sequence[str], program: str, description: str | None, *kinds: Any) -> tuple[Path, list[Any]]:
    """Parses the clip folder and one instance of each of `kinds`.

    See `parse_recipe` for the flags.

    Raises:
        UsageError: an option is missing, unknown or out of range.
    """
    parser = _parser(program, description, kinds)
    parser.add_argument("clips", type=Path, help="clip folder made by preprocessing.build")
    given = _parse(parser, argv)
    return given["clips"], [from_values(kind, given) for kind in kinds]


def parse_recipe(argv: Sequence[str], program: str, description: str | None, *kinds: Any) -> list[Any]:
    """Parses one instance of each of `kinds`.

    Flags are named after their fields, with underscores or hyphens; nested fields are `--field.field`. `--config FILE`
    reads any of them from YAML; later flags override it.

    Raises:
        UsageError: an option is missing, unknown or out of range.
    """
    given = _parse(_parser(program, description, kinds), argv)
    return [from_values(kind, given) for kind in kinds]


def _parser(program: str, description: str | None, kinds: Sequence[Any]) -> ArgumentParser:
    try:
        from jsonargparse import ArgumentParser
    except ImportError:
        raise UsageError(f"training needs jsonargparse: {INSTALL}") from None
    parser = ArgumentParser(prog=program, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    for kind in kinds:
        parser.add_class_arguments(kind)
    return parser


def _parse(parser: ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    try:
        return parser.parse_args([normalize_flag(word) for word in argv]).as_dict()
    except ArgumentError as error:
        raise UsageError(" ".join(str(error).split())) from error


def from_values(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Builds a nested dataclass from a mapping of field values; unknown keys are ignored."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    values = {item.name: given[item.name] for item in fields(kind)}
    nested = {name: from_values(hints[name], value) for name, value in values.items() if is_dataclass(hints[name])}
    return kind(**values | nested)


def normalize_flag(word: str) -> str:
    """Replaces the hyphens in an option name by underscores, as in the field names."""
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word
