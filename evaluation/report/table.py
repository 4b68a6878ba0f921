"""An evaluation as tables: means with their intervals, differences, speakers, failures, the stress list.

A table is text in cells, for the page and, as Markdown, for documents.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.metrics.statistics import Interval
from evaluation.report.columns import COLUMNS, WHOLES, Column, column
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
    SystemFigure,
)
from evaluation.report.summary import Difference, differences, figures, of, ordered, reasons, share, summary
from preprocessing.errors import display_path

GROUPS = ("sync", "motion", "picture")
TITLES = {MATCHED: "Own sound", SWAPPED: "Another's sound", SILENT: "Silence", STILLS: "Two stills"}
PROTOCOL_MEANINGS = {
    MATCHED: "each face speaks the sound of its own video, which is the truth to compare with",
    SWAPPED: "each face speaks a sound that is not its own",
    SILENT: "each face is given a sound of nothing but silence",
    STILLS: "two stills of each face speak its own sound",
}
SYSTEM_MEANINGS = {
    REAL: "the face's own video with its own sound",
    UNSYNCED: "the face's own video with another's sound: what any measure of sync must refuse",
    COPY: "the face's own video under the sound that is to be spoken: a system that does nothing",
    STATIC: "the mouth of the first frame in all frames: a system that does not move",
}
JUDGES = {
    "": "no network",
    "judge": "our judge, an expert in lip sync",
    "syncnet": "syncnet_python's network",
    "encoder": "our own encoder of faces",
}
BETTER = {"higher": "↑", "lower": "↓", "real": "→ real", "one": "→ 1", "zero": "→ 0"}
ABSENT = "–"
SPEAKER_KEYS = {
    MATCHED: ("cosine", "opening_r", "psnr"),
    SWAPPED: ("cosine", "response"),
    SILENT: ("leak",),
    STILLS: ("other_frame",),
}


@dataclass(frozen=True)
class Table:
    """Text in cells: `rows` have a cell for each of `head`; `notes` are sentences that stand below.

    Attributes:
        protocol: the one that it tells of, "" of all.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    protocol: str = ""


def tables(evaluation: Evaluation) -> list[Table]:
    """All of them, in the order of reading."""
    found = [table for protocol in PROTOCOLS for table in _protocol(evaluation, protocol)]
    compared = differences(evaluation.rows)
    found += [table for protocol in PROTOCOLS for table in _differences(compared, protocol)]
    found += [table for protocol in PROTOCOLS for table in _speakers(of(evaluation.rows, protocol), protocol)]
    return found + _failures(evaluation.rows) + _stress(evaluation.trials)


def head(each: Column) -> str:
    """A column's title, its better way, and in brackets the network that gave it."""
    return f"{each.title} {BETTER[each.better]}" + (f" ({each.judge})" if each.judge else "")


def number(value: float | None, form: str) -> str:
    """A figure as its column prints it, a zero without a minus; a dash for None and nan."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:{form.replace('.', 'z.', 1)}}"


def cell(found: Interval | SystemFigure | None, form: str, clips: int | None = None) -> str:
    """A mean with its interval; how many clips have it is told where they are not `clips`."""
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
    """A table for each group: a line a system."""
    rows = of(evaluation.rows, protocol)
    wholes = {(each.system, each.key): each for each in evaluation.wholes if each.protocol == protocol}
    means, found = summary(rows).get(protocol, {}), []
    measured = {system: sum(not row.reason for row in of(rows, protocol, system)) for system in means}
    for group in GROUPS:
        asked = [each for each in (*COLUMNS, *WHOLES) if each.group == group and protocol in each.protocols]
        have = {key for theirs in means.values() for key in theirs} | {key for _, key in wholes}
        columns = [each for each in asked if each.key in have]
        if not rows or not columns:
            continue
        lines = []
        for system, theirs in means.items():
            cells = [cell(theirs.get(c.key) or wholes.get((system, c.key)), c.form, measured[system]) for c in columns]
            lines.append([system, f"{measured[system]} of {len(of(rows, protocol, system))}", *cells])
        absent = ", ".join(head(each) for each in asked if each not in columns)
        title = f"{TITLES[protocol]}: {group}"
        notes = [f"Not measured: {absent}."] if absent else []
        found.append(Table(title, ["system", "clips", *map(head, columns)], lines, notes, protocol))
    return found


def _differences(compared: Sequence[Difference], protocol: str) -> list[Table]:
    """A table for each group, of the clips that both have; marked where the interval leaves out zero."""
    found, by_key = [], {(d.system, d.against, d.key): d.found for d in compared if d.protocol == protocol}
    for group in GROUPS:
        columns = [each for each in COLUMNS if each.group == group and any(key == each.key for *_, key in by_key)]
        pairs = list(dict.fromkeys((one, two) for one, two, key in by_key if column(key).group == group))
        lines = []
        for one, two in pairs:
            some = [by_key.get((one, two, each.key)) for each in columns]
            most = max(each.clips for each in some if each)
            cells = [_marked(each, c.form, most) for each, c in zip(some, columns, strict=True)]
            lines.append([f"{one} less {two}", str(most), *cells])
        if lines:
            title = f"{TITLES[protocol]}: {group}, differences over the same clips"
            heads = ["", "clips", *map(head, columns)]
            notes = ["≠: the 95 % interval leaves out zero (not corrected for the number of comparisons)."]
            found.append(Table(title, heads, lines, notes, protocol))
    return found


def _marked(found: Interval | None, form: str, clips: int) -> str:
    text = cell(found, "+" + form.lstrip("+"), clips)
    apart = found and found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
    return text + (" ≠" if apart else "")


def _speakers(rows: Sequence[ResultRow], protocol: str) -> list[Table]:
    """A line for each speaker with the means of some figures, system by system; of one speaker there is no table."""
    speakers, systems = sorted({row.speaker for row in rows}), ordered(rows)
    columns = [each for key in SPEAKER_KEYS[protocol] if figures(rows, (each := column(key)).key)]
    if len(speakers) < 2 or not columns:
        return []
    lines = []
    for speaker in speakers:
        theirs = [row for row in rows if row.speaker == speaker]
        means = [[(_mean(of(theirs, protocol, system), c), c) for c in columns] for system in systems]
        cells = ["; ".join(number(mean, c.form) for mean, c in some) for some in means]
        lines.append([display_path(speaker) or ABSENT, str(len({row.pair for row in theirs})), *cells])
    title = f"{TITLES[protocol]}, by speaker: " + "; ".join(map(head, columns))
    return [Table(title, ["speaker", "pairs", *systems], lines, protocol=protocol)]


def _mean(rows: Sequence[ResultRow], each: Column) -> float | None:
    values = list(figures(rows, each.key).values())
    return sum(values) / len(values) if values else None


def _failures(rows: Sequence[ResultRow]) -> list[Table]:
    """A line a reason: what has no figures is never left out silently."""
    found = reasons(rows)
    if not found:
        return []
    lines = []
    for reason, some in found.items():
        protocols = ", ".join(each for each in PROTOCOLS if any(row.protocol == each for row in some))
        pairs = str(len({row.pair for row in some}))
        lines.append([display_path(reason), str(len(some)), pairs, ", ".join(ordered(some)), protocols])
    without = sum(map(len, found.values()))
    heads = ["reason", "videos", "pairs", "systems", "protocols"]
    return [Table(f"Without figures: {without} of {_count(len(rows), 'video')}", heads, lines)]


def _stress(trials: Sequence[StressResult]) -> list[Table]:
    """What became of hard inputs: a line a kind, a column a system, the share passed below."""
    if not trials:
        return []
    systems, kinds = ordered(trials), list(dict.fromkeys(trial.kind for trial in trials))
    lines = [[kind, *(_passed(trials, kind, system) for system in systems)] for kind in kinds]
    counts = [share(trials, system) for system in systems]
    lines.append(["share passed", *(f"{passed / given:.0%} ({passed} of {given})" for passed, given in counts)])
    failed = Counter(f"{t.kind}, {t.system}: {display_path(t.reason)}" for t in trials if not t.passed)
    notes = [f"Failed: {name}." + (f" ({count} times)" if count > 1 else "") for name, count in failed.items()]
    return [Table("Hard inputs: whole, valid videos", ["what is hard", *systems], lines, notes)]


def _passed(trials: Iterable[StressResult], kind: str, system: str) -> str:
    passed, given = share((trial for trial in trials if trial.kind == kind), system)
    if given < 2:
        return ABSENT if not given else "passed" if passed else "failed"
    return f"{passed} of {given}"


def legend(used: Iterable[str]) -> Table:
    """What the columns of these keys mean and who measured them."""
    keys = set(used)
    lines = [[head(c), JUDGES[c.judge], c.meaning] for c in (*COLUMNS, *WHOLES) if c.key in keys]
    return Table("What the columns mean", ["column", "measured with", "meaning"], lines)


def markdown(table: Table, level: int = 3) -> str:
    """The table under a heading of that level, with a newline at its end."""
    lines = [[_escaped(text) for text in line] for line in (table.head, *table.rows)]
    rule = ["---"] * len(table.head)
    drawn = "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
    notes = "".join(f"\n{_escaped(note)}\n" for note in table.notes)
    return f"{'#' * level} {_escaped(table.title)}\n\n{drawn}\n{notes}"


def _escaped(text: str) -> str:
    """As Markdown that reads as the text: on one line, nothing in it a cell, a tag, a link or emphasis."""
    text = re.sub(r"[\\|*_`]|\[(?![-+0-9])", r"\\\g<0>", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")
