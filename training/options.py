"""A trainer's options: dataclasses whose fields are flags and the keys of a YAML file."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from preprocessing.errors import UsageError
from training.run import INSTALL

Options = TypeVar("Options")


def parse_options(argv: Sequence[str], program: str, description: str | None, *kinds: Any) -> tuple[Path, list[Any]]:
    """The folder of clips and one object of each of `kinds`.

    A flag is named as its field, with underscores or hyphens; a field's field is `--field.field`; `--config FILE` reads
    any of them from YAML, and later flags win over it.

    Raises:
        UsageError: naming what is missing, unknown or out of range.
    """
    try:
        from jsonargparse import ArgumentParser
    except ImportError:
        raise UsageError(f"training needs jsonargparse: {INSTALL}") from None
    parser = ArgumentParser(prog=program, description=description, exit_on_error=False)
    parser.add_argument("clips", type=Path, help="folder of clips made by preprocessing.build")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    for kind in kinds:
        parser.add_class_arguments(kind)
    try:
        given = parser.parse_args([normalize_flag(word) for word in argv]).as_dict()
    except ArgumentError as error:
        raise UsageError(" ".join(str(error).split())) from error
    return given["clips"], [from_values(kind, given) for kind in kinds]


def from_values(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """A dataclass of dataclasses from the values of its fields; what it does not know is passed over."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    values = {item.name: given[item.name] for item in fields(kind)}
    nested = {name: from_values(hints[name], value) for name, value in values.items() if is_dataclass(hints[name])}
    return kind(**values | nested)


def normalize_flag(word: str) -> str:
    """An option's name with underscores, as the fields have it, whichever way it was typed."""
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word
