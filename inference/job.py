"""A job as data: the face, what is said by whom, the output and the options; from values of a file, table or flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.options import PATH_OPTIONS, Options
from inference.parts import Part
from preprocessing.errors import MediaError, UsageError, display_path

FILES = ("face", "audio", "outfile", "checkpoint_path", "fan")
ENGINE_FLAGS = ("checkpoint_path", "device", "backend", "landmarks", "fan")  # for `LipSync.load`
OUTPUT_FLAGS = ("quiet", "json")
ALIASES = {"out": "outfile", "checkpoint": "checkpoint_path"}
MAX_BYTES = 2**20  # of a job file
MAX_PARTS = 200


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        face: the video or photo.
        audio: the speech of the face that the options choose; None if there are `parts`.
        outfile: the video to write.
        options: see `Options`.
        parts: who says what and when.
    """

    face: Path
    audio: Path | None
    outfile: Path
    options: Options = field(default_factory=Options)
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if self.audio is not None and self.parts:
            raise UsageError("a job has either audio, for the whole video, or parts, each with an audio of its own")
        if self.audio is None and not self.parts:
            raise UsageError("audio is missing: the file with the speech")
        if not self.parts:
            return
        for name in ("box", "load_track", "save_track", "face_id", "static"):
            if getattr(self.options, name) != getattr(Options, name):
                raise UsageError(f"{name} is for one face: a job with parts says in each part who speaks")
        if self.options.select != Options.select:
            raise UsageError("select is for one sound: a job with parts says in each part who speaks")

    def sounds(self) -> list[Path]:
        """The files with speech."""
        return [self.audio] if self.audio is not None else [part.audio for part in self.parts]

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Job:
        """A job from values by name: face, audio or parts, outfile, and options.

        Raises:
            UsageError: a value is missing, unknown or wrong.
        """
        values = {ALIASES.get(name, name): value for name, value in values.items()}
        files = {name: values.pop(name, None) for name in ("face", "audio", "outfile")}
        parts = values.pop("parts", ())
        for name in ("face", "outfile"):
            if not files[name]:
                raise UsageError(f"{name} is missing")
        face, audio, outfile = (Path(str(path)) if path else None for path in files.values())
        assert face is not None
        assert outfile is not None
        return cls(face, audio, outfile, Options.of(values), tuple(parts))  # type: ignore[arg-type]


def engine_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `LipSync.load` among flags."""
    names = {"checkpoint_path": "checkpoint"}
    return {names.get(name, name): values[name] for name in ENGINE_FLAGS if values.get(name) is not None}


def with_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The values with relative paths taken from `folder`, and with the parts read.

    Raises:
        UsageError: a part is wrong.
    """
    found: dict[str, Any] = {}
    for given, value in values.items():
        name = ALIASES.get(str(given), str(given)).replace("-", "_")
        if (name in FILES or name in PATH_OPTIONS) and isinstance(value, str):
            found[name] = folder / value
        elif name == "parts":
            found[name] = _parts(value, folder)
        else:
            found[name] = value
    return found


def _parts(values: object, folder: Path) -> tuple[Part, ...]:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_PARTS:
        raise UsageError(f"parts must be a list of 1 to {MAX_PARTS} entries with person, audio, from and to")
    parts = []
    for number, value in enumerate(values, 1):
        try:
            parts.append(Part.of(value, folder))
        except UsageError as error:
            raise UsageError(f"part {number}: {error}") from None
    return tuple(parts)


def read_config(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file with any flags by name, and `parts`; relative paths are taken from its folder.

    Raises:
        MediaError: the file cannot be read.
        UsageError: it is not a mapping, or a part is wrong.
    """
    import yaml  # here, so that --help stays fast

    name = display_path(path)
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{name} is not a job file: it is larger than {MAX_BYTES // 2**20} MB")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_plain_loader())
    except OSError as error:
        raise MediaError(f"{name} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not UTF-8 text in YAML or JSON"
        raise UsageError(f"{name}{line}: {reason}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{name} must hold names and values, such as 'face: talk.mp4'")
    try:
        return with_paths(values, path.parent)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def _plain_loader() -> type:
    """YAML's safe loader without aliases: a few lines of them can stand for gigabytes."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(
                    problem="aliases (*name) are not read", problem_mark=self.peek_event().start_mark
                )
            return super().compose_node(parent, index)

    return Loader
