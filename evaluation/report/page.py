"""report.html: the tables, and the videos of each pair side by side with their plots; it plays offline."""

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
from evaluation.report.summary import of, ordered
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

# All videos of a block from the start, with the sound of one of them: the one last asked for, else the one marked.
SCRIPT = """
function hear(block, video) {
  block.querySelectorAll('video').forEach(v => { v.muted = v !== video; });
  block.querySelectorAll('figure').forEach(f => f.classList.toggle('loud', f.contains(video)));
}
document.addEventListener('click', event => {
  const block = event.target.closest('.block');
  if (!block || !event.target.matches('button')) return;
  const seen = [...block.querySelectorAll('video')].filter(v => v.checkVisibility());
  const figure = event.target.closest('figure');
  if (figure) { hear(block, figure.querySelector('video')); return; }
  if (event.target.matches('.stop')) { seen.forEach(v => v.pause()); return; }
  hear(block, block.querySelector('.loud video') || block.querySelector('.first video') || seen[0]);
  seen.forEach(v => { v.currentTime = 0; });
  seen.forEach(v => v.play());
});
const near = new IntersectionObserver(entries => entries.forEach(entry => {
  if (entry.isIntersecting) { entry.target.preload = 'auto'; near.unobserve(entry.target); }
}), { rootMargin: '600px' });
document.querySelectorAll('video').forEach(video => near.observe(video));
"""

LONG = 45  # letters from which a cell is broken into lines

CONSENT = (
    "All videos here but the real ones are synthetic: nobody did or said what they show. "
    "Show them to others only where the people that are seen and heard have consented, and say that they are synthetic."
)
BOOTSTRAP = (
    "Means over clips; in brackets their 95 % intervals by bootstrap over clips. Clips of one person are counted as if "
    "they were of several, so that few people make intervals too narrow. ↑ higher is better, ↓ lower, → the nearer to "
    "it. In brackets behind a column: the network that gave it; without brackets it needs none."
)


def page(evaluation: Evaluation) -> str:
    """The whole page: one file that asks for nothing but the videos beside it."""
    found = tables(evaluation)
    parts = [
        "<h1>Lip sync: evaluation</h1>",
        f'<p class="consent">{escape(CONSENT)}</p>',
        _given(evaluation),
        *_tables(found),
        *_stress_videos(evaluation.trials),
        "<h2>What is what</h2>",
        _table(legend(_keys(evaluation))),
        _table(_systems(evaluation.rows)),
        "<h2>Pairs</h2>",
        "" if can_plot() else _note(f"There are no plots: they need matplotlib ({INSTALL})."),
        _note("Click a name to hear that video; ‘play all’ starts all that are open together."),
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
    """A path within the report's folder as a relative link, whatever its name holds."""
    link = quote(os.fsencode(path.replace(os.sep, "/")), safe="/")
    return "/" + link.lstrip("/") if link.startswith("/") else f"./{link}"  # two slashes would name a host


def _given(evaluation: Evaluation) -> str:
    rows = evaluation.rows
    failed = sum(bool(row.reason) for row in rows)
    speakers, pairs = len({row.speaker for row in rows}), len({row.pair for row in rows})
    videos = f"{len(rows)} videos: {len(rows) - failed} measured, {failed} without figures"
    return f"<p>{pairs} pairs, {speakers} speakers, {videos}.</p>{_note(BOOTSTRAP)}"


def _tables(found: Sequence[Table]) -> list[str]:
    """Under a heading for each protocol, the others at the end."""
    parts = []
    for protocol in (*PROTOCOLS, ""):
        some = [table for table in found if table.protocol == protocol]
        if some and protocol:
            meaning = PROTOCOL_MEANINGS[protocol]
            parts += [f"<h2>{escape(TITLES[protocol])}</h2>", _note(meaning[0].upper() + meaning[1:] + ".")]
        elif some:
            parts.append("<h2>Failures and hard inputs</h2>")
        parts += map(_table, some)
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
    return {key for row in evaluation.rows for key in row.figures} | {whole.key for whole in evaluation.wholes}


def _systems(rows: Sequence[ResultRow]) -> Table:
    lines = [[system, _meaning(system)] for system in ordered(rows)]
    return Table("What the systems are", ["system", "what it is"], lines)


def _meaning(system: str) -> str:
    return SYSTEM_MEANINGS.get(system, "our generator" if system == OURS else "a system that was given, see Settings")


def _by_pair(rows: Iterable[ResultRow]) -> dict[str, list[ResultRow]]:
    found: dict[str, list[ResultRow]] = {}
    for row in rows:
        found.setdefault(row.pair, []).append(row)
    return found


def _pair(index: int, name: str, rows: Sequence[ResultRow]) -> str:
    speakers = ", ".join(dict.fromkeys(display_path(row.speaker) for row in rows if row.speaker))
    title = display_path(name) + (f" ({speakers})" if speakers else "")
    blocks = [_block(protocol, of(rows, protocol)) for protocol in PROTOCOLS if of(rows, protocol)]
    return f'<section id="pair-{index}">\n<h3>{escape(title)}</h3>\n' + "\n".join(blocks) + "\n</section>"


def _block(protocol: str, rows: Sequence[ResultRow]) -> str:
    """A pair in one protocol: real and models side by side, the other baselines behind a fold, plots, figures."""
    rows = [row for system in ordered(rows) for row in rows if row.system == system]
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
    """A video with its system's name; in its place, or below it, why there are no figures."""
    name, why = (
        escape(display_path(row.system)),
        f'<div class="why">{escape(display_path(row.reason))}</div>' if row.reason else "",
    )
    if not row.video:
        return f'<figure><div class="missing">{why or "no video"}</div><figcaption>{name}</figcaption></figure>'
    video = f'<video controls playsinline preload="none" src="{escape(address(row.video))}"></video>'
    caption = f'<figcaption><button type="button" title="hear this one">{name}</button></figcaption>'
    return f"<figure{' class=first' if first else ''}>{video}{caption}{why}</figure>"


def _plots(rows: Sequence[ResultRow]) -> str:
    """What can be drawn of a pair: offsets of the real, the unsynced and the models' videos; openings without the copy,
    which is the real one's, and the static mouth's."""
    if not can_plot():
        return ""
    told = [row for row in rows if row.system in (REAL, UNSYNCED) or row.system not in BASELINES]
    drawn = offset_curves(told), opening_over_time([row for row in told if row.system not in (UNSYNCED, STATIC)])
    return '<div class="row">' + "".join(f"<div>{svg}</div>" for svg in drawn if svg) + "</div>"


def _figures(rows: Sequence[ResultRow]) -> str:
    columns = [each for each in COLUMNS if any(each.key in row.figures for row in rows)]
    if not columns:
        return ""
    lines = [[row.system, *(number(row.figures.get(c.key), c.form) for c in columns)] for row in rows if row.figures]
    table = _table(Table("", ["system", *map(head, columns)], lines))
    return f"<details><summary>Figures</summary>{table}</details>"


def _stress_videos(trials: Sequence[StressResult]) -> list[str]:
    made = [trial for trial in trials if trial.video]
    videos = "".join(
        _video(
            StressResult(trial.kind, f"{trial.kind}, {trial.system}", trial.passed, trial.reason, trial.video), False
        )
        for trial in made
    )
    fold = "<details><summary>Videos of hard inputs</summary>"
    return [f'{fold}<div class="block row">{videos}</div></details>'] if made else []


def _settings(settings: Mapping[str, object]) -> str:
    lines = [[key, _value(value)] for key, value in settings.items()]
    return _table(Table("", ["setting", "value"], lines))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
