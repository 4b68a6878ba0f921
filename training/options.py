"""A trainer's options: dataclasses whose fields are flags and the keys of a YAML file."""

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
    """The folder of clips and one object of each of `kinds`.

    See `parse_recipe` for the flags.

    Raises:
        UsageError: naming what is missing, unknown or out of range.
    """
    parser = _parser(program, description, kinds)
    parser.add_argument("clips", type=Path, help="folder of clips made by preprocessing.build")
    given = _parse(parser, argv)
    return given["clips"], [from_values(kind, given) for kind in kinds]


def parse_recipe(argv: Sequence[str], program: str, description: str | None, *kinds: Any) -> list[Any]:
    """One object of each of `kinds`.

    A flag is named as its field, with underscores or hyphens; a field's field is `--field.field`; `--config FILE` reads
    any of them from YAML, and later flags win over it.

    Raises:
        UsageError: naming what is missing, unknown or out of range.
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
        return parser.parse_args([underscored(word) for word in argv]).as_dict()
    except ArgumentError as error:
        raise UsageError(" ".join(str(error).split())) from error


def from_values(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """A dataclass of dataclasses from the values of its fields; what it does not know is passed over."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    values = {item.name: given[item.name] for item in fields(kind)}
    nested = {name: from_values(hints[name], value) for name, value in values.items() if is_dataclass(hints[name])}
    return kind(**values | nested)


def underscored(word: str) -> str:
    """An option's name with underscores, as the fields have it, whichever way it was typed."""
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word
