"""Plots of sync measurements: distance over AV offset, and histograms of offsets."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preprocessing.errors import UsageError, display_path
from syncnet.offset import REACH
from training.run import INSTALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
MAX_LEGEND = 12  # with more curves there is no legend
OFFSET_LABEL = "AV offset in frames of 40 ms (negative: audio late, positive: audio early)"


def plot_curves(curves: Mapping[str, np.ndarray], path: Path) -> None:
    """Plots mean distance over AV offset, one line per name, with the minimum marked.

    Args:
        curves: by name, (2 * reach + 1,) each, from `shift_curve`; nan values are skipped.
        path: the output file, .png, .pdf or .svg; written atomically.

    Raises:
        UsageError: matplotlib is not installed, the file type is unsupported or the folder does not exist.
        OSError: the file cannot be written.
    """
    figure = _new_figure(path, (8, 5))
    axes, names = figure.subplots(), []
    for name, curve in curves.items():
        offsets = len(curve) // 2 - np.arange(len(curve))  # as sync_score: column reach + k is the offset -k
        (line,) = axes.plot(offsets, curve, ".-")
        best = None if np.isnan(curve).all() else int(np.nanargmin(curve))
        if best is not None:
            axes.plot(offsets[best], curve[best], "o", color=line.get_color(), markersize=9, fillstyle="none")
        names.append((line, _label(name) + ("" if best is None else f": {offsets[best]}")))
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel=OFFSET_LABEL, ylabel="mean distance of video and audio")
    axes.grid(alpha=0.3)
    if 0 < len(names) <= MAX_LEGEND:
        figure.legend(*zip(*names, strict=True), loc="outside lower center", ncols=1 + (len(names) > 3), fontsize=8)
    _write(figure, path)


def _label(name: str, longest: int = 60) -> str:
    """The name, truncated to `longest` characters, with dollar signs escaped from math mode."""
    return (name if len(name) <= longest else name[: longest - 3] + "...").replace("$", r"\$")


def plot_offsets(before: Sequence[int], after: Sequence[int], path: Path) -> None:
    """Plots histograms of the clips' AV offsets before and after filtering.

    Args:
        before, after: AV offsets in frames, -15 to 15, one per clip.
        path: as in `plot_curves`.

    Raises:
        UsageError, OSError: as in `plot_curves`.
    """
    figure = _new_figure(path, (8, 6))
    for axes, name, offsets in zip(
        figure.subplots(2, 1, sharex=True), ("before", "after"), (before, after), strict=True
    ):
        counts = np.bincount(np.asarray(offsets, int) + REACH, minlength=2 * REACH + 1)
        bars = axes.bar(np.arange(-REACH, REACH + 1), counts)
        axes.bar_label(bars, labels=[str(count) if count else "" for count in counts], fontsize=7)
        near_zero = sum(abs(offset) <= 1 for offset in offsets)
        axes.set(title=f"{name}: {len(offsets)} clips, {near_zero} of them within one frame", ylabel="clips")
        axes.locator_params(axis="y", integer=True)
        axes.margins(y=0.12)
    axes.set(xlabel=OFFSET_LABEL, xlim=(-REACH - 1, REACH + 1))
    _write(figure, path)


def _new_figure(path: Path, inches: tuple[float, float]) -> Figure:
    """An empty figure made without pyplot, which would pick a display backend and keep every figure alive."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot plot to {display_path(path)}: the file type must be one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot plot to {display_path(path)}: its folder does not exist")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(f"plotting needs matplotlib: {INSTALL}") from None
    return Figure(figsize=inches, dpi=120, layout="constrained")


def _write(figure: Figure, path: Path) -> None:
    """Renders in memory, writes to a temporary file and renames it."""
    rendered = io.BytesIO()
    figure.savefig(rendered, format=path.suffix.lower().removeprefix("."))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "part"
        part.write_bytes(rendered.getvalue())
        os.replace(part, path)
