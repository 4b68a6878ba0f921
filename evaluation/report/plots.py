"""Small SVG plots for the page: distance over AV offset, and mouth opening over time."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evaluation.report.results import BASELINES, COPY, REAL, STATIC, UNSYNCED, ResultRow
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import UsageError, display_path
from training.run import INSTALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors are the same in all plots; models take those of `MODEL_COLORS` in order.
COLORS = {REAL: "black", UNSYNCED: "0.55", COPY: "tan", STATIC: "0.8"}
MODEL_COLORS = ("C0", "C1", "C2", "C4", "C5", "C6")
SIZE = 4.6, 2.6  # inches
MAX_NAME = 24  # characters of a name in the legend
LEGEND_COLUMNS = 4


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def offset_curves(rows: Sequence[ResultRow]) -> str:
    """Mean distance between video and audio over the AV offset, one line per system, minimum marked.

    Args:
        rows: videos of one pair; those without the curve "offsets" have no line.

    Returns:
        An <svg> element without a prolog; "" if no row has the curve.

    Raises:
        UsageError: matplotlib is not installed.
    """
    rows = [row for row in rows if row.curves.get("offsets")]
    if not rows:
        return ""
    figure = _figure()
    axes = figure.subplots()
    for row, color in zip(rows, _colors(rows), strict=True):
        curve = np.array(row.curves["offsets"], float)  # None becomes nan
        offsets = len(curve) // 2 - np.arange(len(curve))
        axes.plot(offsets, curve, color=color, linewidth=1.2, label=_name(row))
        if not np.isnan(curve).all():
            best = int(np.nanargmin(curve))
            axes.plot(offsets[best], curve[best], "o", color=color, markersize=4)
    axes.axvline(0, color="grey", linewidth=0.6)
    axes.set(xlabel="AV offset, frames of 40 ms (positive: audio early)", ylabel="distance")
    return _svg(figure, axes, rows)


def opening_over_time(rows: Sequence[ResultRow]) -> str:
    """Mouth opening over time, one line per system, over the audio level as an area.

    Args:
        rows: videos of one pair; those without the curve "opening" have no line. The level is that of the first model,
            else of the first row, since the real video may have other audio.

    Returns:
        As for `offset_curves`; "" if no row has the curve.

    Raises:
        UsageError: as for `offset_curves`.
    """
    rows = [row for row in rows if row.curves.get("opening")]
    if not rows:
        return ""
    figure = _figure()
    axes = figure.subplots()
    for row, color in zip(rows, _colors(rows), strict=True):
        axes.plot(*_timed(row.curves["opening"]), color=color, linewidth=1.2, label=_name(row))
    spoken = sorted((row for row in rows if row.curves.get("envelope")), key=lambda row: row.system in BASELINES)
    if spoken:
        level = axes.twinx()
        level.fill_between(*_timed(spoken[0].curves["envelope"]), -7, color="C3", alpha=0.15, linewidth=0)
        level.set(ylim=(-7, 0), yticks=[])  # from the envelope's floor, -60 dBFS, to full scale
    axes.set(xlabel="seconds (red area: audio level)", ylabel="opening, % of crop side")
    return _svg(figure, axes, rows)


def _timed(curve: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(curve)) / CLIP_FPS, np.array(curve, float)


def _colors(rows: Sequence[ResultRow]) -> list[str]:
    models = [row.system for row in rows if row.system not in BASELINES]
    return [COLORS.get(row.system) or MODEL_COLORS[models.index(row.system) % len(MODEL_COLORS)] for row in rows]


def _name(row: ResultRow) -> str:
    """A label for the legend; matplotlib would parse $ as math and hide labels that start with an underscore."""
    name = display_path(row.system)
    name = (name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "...").replace("$", r"\$")
    return f"\u200b{name}" if name.startswith("_") else name


def _figure() -> Figure:
    """An empty figure, created without pyplot, which would select a display and keep every figure alive."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(f"plots require matplotlib: {INSTALL}") from None
    figure = Figure(figsize=SIZE)
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.17)  # automatic layout would double the time
    return figure


def _svg(figure: Figure, axes: Axes, rows: Sequence[ResultRow]) -> str:
    """The figure as SVG with a legend; text stays text, and element ids are unique on the page."""
    import matplotlib

    axes.grid(alpha=0.3, linewidth=0.5)
    axes.tick_params(labelsize=7)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(8)
    lines = -(-len(rows) // LEGEND_COLUMNS)
    figure.subplots_adjust(top=0.97 - 0.07 * lines)
    axes.legend(
        fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=LEGEND_COLUMNS, frameon=False, borderaxespad=0
    )
    drawn = io.StringIO()
    salt = "/".join([axes.get_xlabel(), *(f"{row.pair}/{row.protocol}/{row.system}" for row in rows)])
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", metadata=nothing)
    text = drawn.getvalue()
    return text[text.index("<svg") :].strip()
