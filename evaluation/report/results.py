"""Results of an evaluation: a row per video, system-level metrics, and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MATCHED, SWAPPED, SILENT, STILLS = "matched", "swapped", "silent", "stills"
PROTOCOLS = (MATCHED, SWAPPED, SILENT, STILLS)
REAL, UNSYNCED, COPY, STATIC, OURS = "real", "unsynced", "copy", "static", "ours"
SECONDS = 6.0  # default maximum length of each video
BASELINES = (REAL, UNSYNCED, COPY, STATIC)


@dataclass
class ResultRow:
    """One video of one system, measured or not.

    Attributes:
        pair: name of the pair.
        protocol: one of `PROTOCOLS`.
        speaker: the person in the video, "" if unknown.
        system: one of `BASELINES`, "ours" or a user-defined name.
        video: path within the report's folder, "" if there is none.
        reason: why the video has no metrics, "" if it has.
        figures: metrics by the keys of `evaluation.report.columns.COLUMNS`; unavailable ones are absent, never nan.
        curves: "offsets" (31 mean distances at the AV offsets 15 to -15), "opening" and "envelope" (one value per
            frame at 25 fps).
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
class SystemMetric:
    """A metric over all videos of a system, with its 95 % interval over clips, if there is one."""

    protocol: str
    system: str
    key: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class StressResult:
    """The outcome of one system on one hard input.

    Attributes:
        kind: what makes the input hard, e.g. "dark".
        system: name of the system.
        passed: whether the result is a complete, valid video.
        reason: why not; "" if passed.
        video: path within the report's folder, "" if there is none.
    """

    kind: str
    system: str
    passed: bool
    reason: str = ""
    video: str = ""


@dataclass
class Evaluation:
    """Everything a report is written from; `settings` is JSON-serializable and describes how metrics were computed."""

    settings: Mapping[str, object]
    rows: Sequence[ResultRow]
    system_metrics: Sequence[SystemMetric] = ()
    trials: Sequence[StressResult] = ()
