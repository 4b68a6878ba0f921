"""Aggregation of result rows: means with intervals, paired differences, failure reasons."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from evaluation.metrics.statistics import Interval, interval, paired
from evaluation.report.columns import COLUMNS
from evaluation.report.results import BASELINES, OURS, PROTOCOLS, REAL, ResultRow, StressResult, SystemMetric


def ordered_systems(rows: Iterable[ResultRow | SystemMetric | StressResult]) -> list[str]:
    """The systems present: real, the other baselines, ours, then others in order of appearance."""
    known = (*BASELINES, OURS)
    found = list(dict.fromkeys(row.system for row in rows))
    return sorted(found, key=lambda system: known.index(system) if system in known else len(known))


def select_rows(rows: Iterable[ResultRow], protocol: str, system: str | None = None) -> list[ResultRow]:
    """The rows of a protocol and, unless None, of a system."""
    return [row for row in rows if row.protocol == protocol and system in (None, row.system)]


def figures(rows: Iterable[ResultRow], key: str) -> dict[Hashable, float]:
    """A metric by pair, for one system in one protocol; pairs without a finite value are omitted."""
    found = {row.pair: row.figures.get(key, math.nan) for row in rows}
    return {pair: value for pair, value in found.items() if math.isfinite(value)}


def summary(rows: Sequence[ResultRow]) -> dict[str, dict[str, dict[str, Interval]]]:
    """Mean over clips with its interval, by protocol, system and key; metrics that no clip has are absent."""
    found: dict[str, dict[str, dict[str, Interval]]] = {}
    for protocol in PROTOCOLS:
        protocol_rows = select_rows(rows, protocol)
        for system in ordered_systems(protocol_rows):
            system_rows = select_rows(protocol_rows, protocol, system)
            means = {each.key: interval(list(figures(system_rows, each.key).values())) for each in COLUMNS}
            found.setdefault(protocol, {})[system] = {key: mean for key, mean in means.items() if mean}
    return found


@dataclass(frozen=True)
class Difference:
    """Mean difference of a metric between a system and another, over the clips that have both."""

    protocol: str
    system: str
    against: str
    key: str
    found: Interval


def differences(rows: Sequence[ResultRow]) -> list[Difference]:
    """Differences of each model from the real video and from the first model, which is "ours" if present."""
    found = []
    for protocol in PROTOCOLS:
        protocol_rows = select_rows(rows, protocol)
        models = [system for system in ordered_systems(protocol_rows) if system not in BASELINES]
        for system, against in [(s, REAL) for s in models] + [(s, models[0]) for s in models[1:]]:
            one, two = select_rows(protocol_rows, protocol, system), select_rows(protocol_rows, protocol, against)
            for each in COLUMNS:
                if difference := paired(figures(one, each.key), figures(two, each.key)):
                    found.append(Difference(protocol, system, against, each.key, difference))
    return found


def reasons(rows: Iterable[ResultRow]) -> dict[str, list[ResultRow]]:
    """Failed rows by reason, most frequent first."""
    found: dict[str, list[ResultRow]] = {}
    for row in rows:
        if row.reason:
            found.setdefault(row.reason, []).append(row)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def pass_count(trials: Iterable[StressResult], system: str) -> tuple[int, int]:
    """Number of hard inputs that a system passed, and number it was run on."""
    passed = [trial.passed for trial in trials if trial.system == system]
    return sum(passed), len(passed)
