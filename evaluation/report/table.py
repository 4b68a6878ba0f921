"""Tables of an evaluation: means with intervals, paired differences, speakers, failures, hard inputs.

Cells are text, rendered as HTML for the page or as Markdown for documents.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.metrics.statistics import Interval
from evaluation.report.columns import COLUMNS, SYSTEM_COLUMNS, Column, column
from evaluation.report.results import (
    COPY,
    MATCHED,
    PROTOCOLS,
    REAL,
    SILENT,
    STATIC,
    STILLS,
    SWAPPED,
    UNSYNCED,
    Evaluation,
    ResultRow,
    StressResult,
    SystemMetric,
)
from evaluation.report.summary import (
    Difference,
    differences,
    figures,
    ordered_systems,
    pass_count,
    reasons,
    select_rows,
    summary,
)
from preprocessing.errors import display_path

GROUPS = {"sync": "sync", "motion": "motion", "mouth": "mouth shape", "picture": "image quality"}
TITLES = {MATCHED: "Own audio", SWAPPED: "Swapped audio", SILENT: "Silence", STILLS: "Two stills"}
PROTOCOL_MEANINGS = {
    MATCHED: "each face is driven by the audio of its own video, which is the ground truth",
    SWAPPED: "each face is driven by another speaker's audio",
    SILENT: "each face is driven by silence",
    STILLS: "two stills of each face are driven by its own audio",
}
SYSTEM_MEANINGS = {
    REAL: "the original video with its own audio",
    UNSYNCED: "the original video with another speaker's audio: every sync metric must reject it",
    COPY: "the original video with the driving audio: a system that does nothing",
    STATIC: "the mouth of the first frame in every frame: a system that does not move",
}
JUDGES = {
    "": "no network",
    "judge": "our judge, a sync expert",
    "syncnet": "syncnet_python's network",
    "encoder": "our face encoder",
    "mesh": "a face mesh: MediaPipe's or our landmark network, see the settings",
}
BETTER = {"higher": "↑", "lower": "↓", "real": "→ real", "one": "→ 1", "zero": "→ 0", "half": "→ 0.5"}
ABSENT = "–"
SPEAKER_KEYS = {
    MATCHED: ("cosine", "opening_r", "psnr"),
    SWAPPED: ("cosine", "response"),
    SILENT: ("leak",),
    STILLS: ("other_frame",),
}


@dataclass(frozen=True)
class Table:
    """A table of text: `rows` have one cell per entry of `head`; `notes` are sentences below the table.

    Attributes:
        protocol: the protocol it belongs to, "" for all.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    protocol: str = ""


def tables(evaluation: Evaluation) -> list[Table]:
    """All tables, in display order."""
    found = [table for protocol in PROTOCOLS for table in _protocol(evaluation, protocol)]
    compared = differences(evaluation.rows)
    found += [table for protocol in PROTOCOLS for table in _differences(compared, protocol)]
    found += [table for protocol in PROTOCOLS for table in _speakers(select_rows(evaluation.rows, protocol), protocol)]
    return found + _failures(evaluation.rows) + _stress(evaluation.trials)


def head(each: Column) -> str:
    """A column's title, its better direction and, in parentheses, the network behind it."""
    return f"{each.title} {BETTER[each.better]}" + (f" ({each.judge})" if each.judge else "")


def number(value: float | None, form: str) -> str:
    """A value in its column's format, without negative zero; a dash for None and nan."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:{form.replace('.', 'z.', 1)}}"


def cell(found: Interval | SystemMetric | None, form: str, clips: int | None = None) -> str:
    """A mean with its interval, and the number of clips if it differs from `clips`."""
    if found is None:
        return ABSENT
    text = number(found.mean if isinstance(found, Interval) else found.value, form)
    if found.low is not None and found.high is not None:
        text += f" [{number(found.low, form)}, {number(found.high, form)}]"
    if isinstance(found, Interval) and clips not in (None, found.clips):
        text += f" ({_count(found.clips, 'clip')})"
    return text


def _count(how_many: int, name: str) -> str:
    return f"{how_many} {name}" + ("" if how_many == 1 else "s")


def _protocol(evaluation: Evaluation, protocol: str) -> list[Table]:
    """One table per group, one line per system."""
    rows = select_rows(evaluation.rows, protocol)
    wholes = {(each.system, each.key): each for each in evaluation.system_metrics if each.protocol == protocol}
    means, found = summary(rows).get(protocol, {}), []
    measured = {system: sum(not row.reason for row in select_rows(rows, protocol, system)) for system in means}
    for group in GROUPS:
        asked = [each for each in (*COLUMNS, *SYSTEM_COLUMNS) if each.group == group and protocol in each.protocols]
        have = {key for values in means.values() for key in values} | {key for _, key in wholes}
        columns = [each for each in asked if each.key in have]
        if not rows or not columns:
            continue
        lines = []
        for system, values in means.items():
            cells = [cell(values.get(c.key) or wholes.get((system, c.key)), c.form, measured[system]) for c in columns]
            lines.append([system, f"{measured[system]} of {len(select_rows(rows, protocol, system))}", *cells])
        absent = ", ".join(head(each) for each in asked if each not in columns)
        title = f"{TITLES[protocol]}: {GROUPS[group]}"
        notes = [f"Not measured: {absent}."] if absent else []
        found.append(Table(title, ["system", "clips", *map(head, columns)], lines, notes, protocol))
    return found


def _differences(compared: Sequence[Difference], protocol: str) -> list[Table]:
    """One table per group over the clips that both systems have; marked where the interval excludes zero."""
    found, by_key = [], {(d.system, d.against, d.key): d.found for d in compared if d.protocol == protocol}
    for group in GROUPS:
        columns = [each for each in COLUMNS if each.group == group and any(key == each.key for *_, key in by_key)]
        pairs = list(dict.fromkeys((one, two) for one, two, key in by_key if column(key).group == group))
        lines = []
        for one, two in pairs:
            changes = [by_key.get((one, two, each.key)) for each in columns]
            most = max(each.clips for each in changes if each)
            cells = [_marked(each, c.form, most) for each, c in zip(changes, columns, strict=True)]
            lines.append([f"{one} minus {two}", str(most), *cells])
        if lines:
            title = f"{TITLES[protocol]}: {GROUPS[group]}, paired differences"
            heads = ["", "clips", *map(head, columns)]
            notes = ["≠: the 95 % interval excludes zero (not corrected for multiple comparisons)."]
            found.append(Table(title, heads, lines, notes, protocol))
    return found


def _marked(found: Interval | None, form: str, clips: int) -> str:
    text = cell(found, "+" + form.lstrip("+"), clips)
    apart = found and found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
    return text + (" ≠" if apart else "")


def _speakers(rows: Sequence[ResultRow], protocol: str) -> list[Table]:
    """One line per speaker with the means of some metrics, system by system; no table for a single speaker."""
    speakers, systems = sorted({row.speaker for row in rows}), ordered_systems(rows)
    columns = [each for key in SPEAKER_KEYS[protocol] if figures(rows, (each := column(key)).key)]
    if len(speakers) < 2 or not columns:
        return []
    lines = []
    for speaker in speakers:
        speaker_rows = [row for row in rows if row.speaker == speaker]
        means = [[(_mean(select_rows(speaker_rows, protocol, system), c), c) for c in columns] for system in systems]
        cells = ["; ".join(number(mean, c.form) for mean, c in values) for values in means]
        lines.append([display_path(speaker) or ABSENT, str(len({row.pair for row in speaker_rows})), *cells])
    title = f"{TITLES[protocol]}, by speaker: " + "; ".join(map(head, columns))
    return [Table(title, ["speaker", "pairs", *systems], lines, protocol=protocol)]


def _mean(rows: Sequence[ResultRow], each: Column) -> float | None:
    values = list(figures(rows, each.key).values())
    return sum(values) / len(values) if values else None


def _failures(rows: Sequence[ResultRow]) -> list[Table]:
    """One line per failure reason: no video is dropped silently."""
    found = reasons(rows)
    if not found:
        return []
    lines = []
    for reason, failed in found.items():
        protocols = ", ".join(each for each in PROTOCOLS if any(row.protocol == each for row in failed))
        pairs = str(len({row.pair for row in failed}))
        lines.append([display_path(reason), str(len(failed)), pairs, ", ".join(ordered_systems(failed)), protocols])
    without = sum(map(len, found.values()))
    heads = ["reason", "videos", "pairs", "systems", "protocols"]
    return [Table(f"Not measured: {without} of {_count(len(rows), 'video')}", heads, lines)]


def _stress(trials: Sequence[StressResult]) -> list[Table]:
    """Results on hard inputs: one line per kind, one column per system, pass rates at the bottom."""
    if not trials:
        return []
    systems, kinds = ordered_systems(trials), list(dict.fromkeys(trial.kind for trial in trials))
    lines = [[kind, *(_passed(trials, kind, system) for system in systems)] for kind in kinds]
    counts = [pass_count(trials, system) for system in systems]
    lines.append(["pass rate", *(f"{passed / given:.0%} ({passed} of {given})" for passed, given in counts)])
    failed = Counter(f"{t.kind}, {t.system}: {display_path(t.reason)}" for t in trials if not t.passed)
    notes = [f"Failed: {name}." + (f" ({count} times)" if count > 1 else "") for name, count in failed.items()]
    return [Table("Hard inputs: valid videos", ["input", *systems], lines, notes)]


def _passed(trials: Iterable[StressResult], kind: str, system: str) -> str:
    passed, given = pass_count((trial for trial in trials if trial.kind == kind), system)
    if given < 2:
        return ABSENT if not given else "passed" if passed else "failed"
    return f"{passed} of {given}"


def legend(used: Iterable[str]) -> Table:
    """The meaning of the columns with these keys, and the network behind each."""
    keys = set(used)
    lines = [[head(c), JUDGES[c.judge], c.meaning] for c in (*COLUMNS, *SYSTEM_COLUMNS) if c.key in keys]
    return Table("Column legend", ["column", "network", "meaning"], lines)


def markdown(table: Table, level: int = 3) -> str:
    """The table as Markdown under a heading of this level, ending with a newline."""
    lines = [[_escaped(text) for text in line] for line in (table.head, *table.rows)]
    rule = ["---"] * len(table.head)
    drawn = "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
    notes = "".join(f"\n{_escaped(note)}\n" for note in table.notes)
    return f"{'#' * level} {_escaped(table.title)}\n\n{drawn}\n{notes}"


def _escaped(text: str) -> str:
    """Escape text for one Markdown table cell: no cell separators, tags, links or emphasis."""
    text = re.sub(r"[\\|*_`]|\[(?![-+0-9])", r"\\\g<0>", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")
