"""What an evaluation found: a row for each video, figures of whole systems, and what they were found with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MATCHED, SWAPPED, SILENT, STILLS = "matched", "swapped", "silent", "stills"
PROTOCOLS = (MATCHED, SWAPPED, SILENT, STILLS)
REAL, UNSYNCED, COPY, STATIC, OURS = "real", "unsynced", "copy", "static", "ours"
SECONDS = 6.0  # of each video that are made at most
BASELINES = (REAL, UNSYNCED, COPY, STATIC)


@dataclass
class ResultRow:
    """One video of one system, measured or not.

    Attributes:
        pair: the pair's name.
        protocol: of `PROTOCOLS`.
        speaker: who is seen, "" where nobody said.
        system: of `BASELINES`, "ours" or a name that the user gave.
        video: its path within the report's folder, "" where there is none.
        reason: why there are no figures, "" where there are.
        figures: by the keys of `evaluation.report.columns.COLUMNS`; a figure that could not be had is absent, never nan.
        curves: "offsets" (31 mean distances, of the AV offsets 15 to -15), "opening" and "envelope" (a value a frame at
            25 a second).
    """

    pair: str
    protocol: str
    speaker: str
    system: str
    video: str = ""
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class SystemFigure:
    """A figure of all of a system's videos together, with its 95 % interval over clips."""

    protocol: str
    system: str
    key: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StressResult:
    """One hard input of the stress list: whether a whole, valid video came out.

    Attributes:
        kind: what is hard about it, e.g. "dark".
        system: who was to make it.
        passed: whether there is a whole, valid video.
        reason: why not; "" if passed.
        video: its path within the report's folder, "" where there is none.
    """

    kind: str
    system: str
    passed: bool
    reason: str = ""
    video: str = ""


@dataclass
class Evaluation:
    """All that a report is written from; `settings` is plain JSON: what the figures were found with."""

    settings: Mapping[str, object]
    rows: Sequence[ResultRow]
    wholes: Sequence[SystemFigure] = ()
    trials: Sequence[StressResult] = ()
