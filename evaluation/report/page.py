"""report.html: the tables, and for each pair the videos side by side with their plots; works offline."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import quote

from evaluation.report.columns import COLUMNS
from evaluation.report.plots import can_plot, offset_curves, opening_over_time
from evaluation.report.results import (
    BASELINES,
    OURS,
    PROTOCOLS,
    REAL,
    STATIC,
    UNSYNCED,
    Evaluation,
    ResultRow,
    StressResult,
)
from evaluation.report.summary import ordered_systems, select_rows
from evaluation.report.table import PROTOCOL_MEANINGS, SYSTEM_MEANINGS, TITLES, Table, head, legend, number, tables
from preprocessing.errors import display_path
from training.run import INSTALL

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 2em auto; max-width: 1280px;
  padding: 0 1em; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; } h3 { margin: 1.6em 0 .4em; overflow-wrap: anywhere; }
h4 { margin: 1em 0 .4em; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .25em .7em; border-bottom: 1px solid #e4e4e4; }
th { text-align: left; background: #f6f6f6; vertical-align: bottom; min-width: 4.5em; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16em; }
.note, figcaption, .why { font-size: 13px; color: #555; } .why { color: #a00; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; } figure { margin: 0; width: 232px; }
video { width: 232px; height: 232px; object-fit: contain; background: #eee; display: block; }
.missing { width: 232px; height: 232px; background: #f3e6e6; display: flex; align-items: center; text-align: center; }
figcaption button { all: unset; cursor: pointer; text-decoration: underline dotted; } .loud { font-weight: bold; }
svg { max-width: 100%; height: auto; } details { margin: .5em 0; } summary { cursor: pointer; color: #555; }
.consent { padding: .6em 1em; background: #fff6dd; }
"""

# Plays all videos of a block from the start, with the audio of one: the last one selected, else the one marked "first".
SCRIPT = """
function unmute(block, video) {
  block.querySelectorAll('video').forEach(v => { v.muted = v !== video; });
  block.querySelectorAll('figure').forEach(f => f.classList.toggle('loud', f.contains(video)));
}
document.addEventListener('click', event => {
  const block = event.target.closest('.block');
  if (!block || !event.target.matches('button')) return;
  const visible = [...block.querySelectorAll('video')].filter(v => v.checkVisibility());
  const figure = event.target.closest('figure');
  if (figure) { unmute(block, figure.querySelector('video')); return; }
  if (event.target.matches('.stop')) { visible.forEach(v => v.pause()); return; }
  unmute(block, block.querySelector('.loud video') || block.querySelector('.first video') || visible[0]);
  visible.forEach(v => { v.currentTime = 0; });
  visible.forEach(v => v.play());
});
const near = new IntersectionObserver(entries => entries.forEach(entry => {
  if (entry.isIntersecting) { entry.target.preload = 'auto'; near.unobserve(entry.target); }
}), { rootMargin: '600px' });
document.querySelectorAll('video').forEach(video => near.observe(video));
"""

LONG = 45  # characters above which a cell wraps

CONSENT = (
    "All videos on this page except the real ones are synthetic: nobody did or said what they show. "
    "Share them only with the consent of the people shown and heard, and label them as synthetic."
)
BOOTSTRAP = (
    "Means over clips with 95 % bootstrap intervals over clips in brackets. Clips of one person are treated as "
    "independent, so with few people the intervals are too narrow. ↑ higher is better, ↓ lower is better, → closer to "
    "the target is better. In parentheses: the network behind a metric, if any."
)


def page(evaluation: Evaluation) -> str:
    """The complete HTML page, self-contained except for the videos next to it."""
    found = tables(evaluation)
    parts = [
        "<h1>Lip sync: evaluation</h1>",
        f'<p class="consent">{escape(CONSENT)}</p>',
        _overview(evaluation),
        *_tables(found),
        *_stress_videos(evaluation.trials),
        "<h2>Legend</h2>",
        _table(legend(_keys(evaluation))),
        _table(_systems(evaluation.rows)),
        "<h2>Pairs</h2>",
        "" if can_plot() else _note(f"No plots: they require matplotlib ({INSTALL})."),
        _note("Click a name to hear that video; ‘play all’ starts all visible videos of a block together."),
        *(_pair(index, name, rows) for index, (name, rows) in enumerate(_by_pair(evaluation.rows).items())),
        "<h2>Settings</h2>",
        _settings(evaluation.settings),
    ]
    start = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Lip sync: evaluation</title>\n'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    body = "\n".join(part for part in parts if part)
    return (
        f"{start}{view}<style>{STYLE}</style>\n</head>\n<body>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def address(path: str) -> str:
    """A path within the report's folder as a relative link, quoted for any file name."""
    link = quote(os.fsencode(path.replace(os.sep, "/")), safe="/")
    return "/" + link.lstrip("/") if link.startswith("/") else f"./{link}"  # a link with two slashes names a host


def _overview(evaluation: Evaluation) -> str:
    rows = evaluation.rows
    failed = sum(bool(row.reason) for row in rows)
    speakers, pairs = len({row.speaker for row in rows}), len({row.pair for row in rows})
    videos = f"{len(rows)} videos: {len(rows) - failed} measured, {failed} failed"
    return f"<p>{pairs} pairs, {speakers} speakers, {videos}.</p>{_note(BOOTSTRAP)}"


def _tables(found: Sequence[Table]) -> list[str]:
    """The tables under a heading per protocol, the others at the end."""
    parts = []
    for protocol in (*PROTOCOLS, ""):
        matching = [table for table in found if table.protocol == protocol]
        if matching and protocol:
            meaning = PROTOCOL_MEANINGS[protocol]
            parts += [f"<h2>{escape(TITLES[protocol])}</h2>", _note(meaning[0].upper() + meaning[1:] + ".")]
        elif matching:
            parts.append("<h2>Failures and hard inputs</h2>")
        parts += map(_table, matching)
    return parts


def _table(table: Table) -> str:
    heads = "".join(f"<th>{escape(display_path(text))}</th>" for text in table.head)
    lines = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in table.rows)
    notes = "".join(map(_note, table.notes))
    drawn = f"<table><thead><tr>{heads}</tr></thead><tbody>\n{lines}</tbody></table>"
    title = f"<h4>{escape(table.title)}</h4>\n" if table.title else ""
    return f'{title}<div class="wide">{drawn}</div>{notes}'


def _cell(text: str) -> str:
    return f"<td{' class=long' if len(text) > LONG else ''}>{escape(display_path(text))}</td>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(display_path(text))}</p>'


def _keys(evaluation: Evaluation) -> set[str]:
    keys = {key for row in evaluation.rows for key in row.figures}
    return keys | {figure.key for figure in evaluation.system_metrics}


def _systems(rows: Sequence[ResultRow]) -> Table:
    lines = [[system, _meaning(system)] for system in ordered_systems(rows)]
    return Table("Systems", ["system", "description"], lines)


def _meaning(system: str) -> str:
    return SYSTEM_MEANINGS.get(system, "our generator" if system == OURS else "a user-provided system, see Settings")


def _by_pair(rows: Iterable[ResultRow]) -> dict[str, list[ResultRow]]:
    found: dict[str, list[ResultRow]] = {}
    for row in rows:
        found.setdefault(row.pair, []).append(row)
    return found


def _pair(index: int, name: str, rows: Sequence[ResultRow]) -> str:
    speakers = ", ".join(dict.fromkeys(display_path(row.speaker) for row in rows if row.speaker))
    title = display_path(name) + (f" ({speakers})" if speakers else "")
    blocks = [_block(protocol, select_rows(rows, protocol)) for protocol in PROTOCOLS if select_rows(rows, protocol)]
    return f'<section id="pair-{index}">\n<h3>{escape(title)}</h3>\n' + "\n".join(blocks) + "\n</section>"


def _block(protocol: str, rows: Sequence[ResultRow]) -> str:
    """A pair in one protocol: real and models side by side, the other baselines collapsed, plots, metrics."""
    rows = [row for system in ordered_systems(rows) for row in rows if row.system == system]
    others = [row for row in rows if row.system in BASELINES and row.system != REAL]
    first = next((row for row in rows if row.system not in BASELINES and row.video), None)
    shown_first = "".join(_video(row, row is first) for row in rows if row not in others)
    folded = "".join(_video(row, False) for row in others)
    fold = f'<details><summary>Baselines</summary><div class="row">{folded}</div></details>' if folded else ""
    buttons = '<button class="all" type="button">play all</button> <button class="stop" type="button">stop</button>'
    return (
        f'<div class="block"><h4>{escape(TITLES[protocol])} {buttons if any(row.video for row in rows) else ""}</h4>\n'
        f'<div class="row">{shown_first}</div>{fold}{_plots(rows)}{_figures(rows)}</div>'
    )


def _video(row: ResultRow | StressResult, first: bool) -> str:
    """A video with its system's name; in its place, or below it, why it was not measured."""
    name, why = (
        escape(display_path(row.system)),
        f'<div class="why">{escape(display_path(row.reason))}</div>' if row.reason else "",
    )
    if not row.video:
        return f'<figure><div class="missing">{why or "no video"}</div><figcaption>{name}</figcaption></figure>'
    video = f'<video controls playsinline preload="none" src="{escape(address(row.video))}"></video>'
    caption = f'<figcaption><button type="button" title="play audio of this video">{name}</button></figcaption>'
    return f"<figure{' class=first' if first else ''}>{video}{caption}{why}</figure>"


def _plots(rows: Sequence[ResultRow]) -> str:
    """Plots of a pair: offset curves of real, unsynced and the models; openings of real and the models."""
    if not can_plot():
        return ""
    shown = [row for row in rows if row.system in (REAL, UNSYNCED) or row.system not in BASELINES]
    drawn = offset_curves(shown), opening_over_time([row for row in shown if row.system not in (UNSYNCED, STATIC)])
    return '<div class="row">' + "".join(f"<div>{svg}</div>" for svg in drawn if svg) + "</div>"


def _figures(rows: Sequence[ResultRow]) -> str:
    columns = [each for each in COLUMNS if any(each.key in row.figures for row in rows)]
    if not columns:
        return ""
    lines = [[row.system, *(number(row.figures.get(c.key), c.form) for c in columns)] for row in rows if row.figures]
    table = _table(Table("", ["system", *map(head, columns)], lines))
    return f"<details><summary>Metrics</summary>{table}</details>"


def _stress_videos(trials: Sequence[StressResult]) -> list[str]:
    made = [trial for trial in trials if trial.video]
    videos = "".join(
        _video(
            StressResult(trial.kind, f"{trial.kind}, {trial.system}", trial.passed, trial.reason, trial.video), False
        )
        for trial in made
    )
    fold = "<details><summary>Videos from hard inputs</summary>"
    return [f'{fold}<div class="block row">{videos}</div></details>'] if made else []


def _settings(settings: Mapping[str, object]) -> str:
    lines = [[key, _value(value)] for key, value in settings.items()]
    return _table(Table("", ["setting", "value"], lines))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
