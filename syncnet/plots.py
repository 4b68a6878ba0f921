"""Pictures of what an expert finds: distance over shift, and how many clips have which offset."""

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
NAMED = 12  # curves up to which a legend tells them apart
EARLY_LATE = "AV offset in frames of 40 ms (negative: sound late, positive: sound early)"


def plot_curves(curves: Mapping[str, np.ndarray], path: Path) -> None:
    """Draws the mean distance over the AV offset, one line a name, with its least marked.

    Args:
        curves: by name, (2 * reach + 1,) each as `shift_curve` gives them; nan is left out.
        path: the file, .png, .pdf or .svg; written whole or not at all.

    Raises:
        UsageError: matplotlib is not installed, another kind of file, or a missing folder.
        OSError: the file cannot be written.
    """
    figure = _figure(path, (8, 5))
    axes, names = figure.subplots(), []
    for name, curve in curves.items():
        offsets = len(curve) // 2 - np.arange(len(curve))  # as sync_score: column reach + k is the offset -k
        (line,) = axes.plot(offsets, curve, ".-")
        best = None if np.isnan(curve).all() else int(np.nanargmin(curve))
        if best is not None:
            axes.plot(offsets[best], curve[best], "o", color=line.get_color(), markersize=9, fillstyle="none")
        names.append((line, _plain(name) + ("" if best is None else f": {offsets[best]}")))
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel=EARLY_LATE, ylabel="mean distance of picture and sound")
    axes.grid(alpha=0.3)
    if 0 < len(names) <= NAMED:
        figure.legend(*zip(*names, strict=True), loc="outside lower center", ncols=1 + (len(names) > 3), fontsize=8)
    _write(figure, path)


def _plain(name: str, longest: int = 60) -> str:
    """A name, shortened if need be, whose dollars do not set formulas."""
    return (name if len(name) <= longest else name[: longest - 3] + "...").replace("$", r"\$")


def plot_offsets(before: Sequence[int], after: Sequence[int], path: Path) -> None:
    """Draws how many clips have which offset, before and after a screening.

    Args:
        before, after: AV offsets in frames, -15 to 15, one a clip.
        path: as `plot_curves`.

    Raises:
        ValueError, OSError: as `plot_curves`.
    """
    figure = _figure(path, (8, 6))
    for axes, name, offsets in zip(
        figure.subplots(2, 1, sharex=True), ("before", "after"), (before, after), strict=True
    ):
        counts = np.bincount(np.asarray(offsets, int) + REACH, minlength=2 * REACH + 1)
        bars = axes.bar(np.arange(-REACH, REACH + 1), counts)
        axes.bar_label(bars, labels=[str(count) if count else "" for count in counts], fontsize=7)
        close = sum(abs(offset) <= 1 for offset in offsets)
        axes.set(title=f"{name}: {len(offsets)} clips, {close} of them within one frame", ylabel="clips")
        axes.locator_params(axis="y", integer=True)
        axes.margins(y=0.12)
    axes.set(xlabel=EARLY_LATE, xlim=(-REACH - 1, REACH + 1))
    _write(figure, path)


def _figure(path: Path, inches: tuple[float, float]) -> Figure:
    """An empty figure of its own: pyplot, which chooses a display and remembers every figure, takes no part."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot draw {display_path(path)}: its name must end in one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot draw {display_path(path)}: its folder does not exist")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(f"drawing needs matplotlib: {INSTALL}") from None
    return Figure(figsize=inches, dpi=120, layout="constrained")


def _write(figure: Figure, path: Path) -> None:
    """Draws in memory and writes beside the final name, then renames."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.lower().removeprefix("."))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "part"
        part.write_bytes(drawn.getvalue())
        os.replace(part, path)
