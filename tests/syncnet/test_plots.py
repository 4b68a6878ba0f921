"""Sync plots: contents, atomic writing, and no side effects on matplotlib."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from syncnet.plots import plot_curves, plot_offsets

REPOSITORY = Path(__file__).resolve().parents[2]
SHIFTS = np.arange(-15, 16)


def valley(at: int) -> np.ndarray:
    """A curve with its minimum at the given AV offset; column 15 + k holds offset -k."""
    return np.minimum(1.0, 0.4 + 0.1 * np.abs(SHIFTS + at))


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Records the figures that are drawn."""
    from matplotlib.figure import Figure

    figures: list = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    return figures


def test_curves_lie_over_the_av_offset_with_their_least_marked(tmp_path, drawn):
    plot_curves({"own": valley(0), "early": valley(4), "late": valley(-7)}, tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    lines, marks = axes.lines[0:6:2], axes.lines[1:6:2]
    for line, mark, at in zip(lines, marks, (0, 4, -7), strict=True):
        shown = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
        assert shown[at] == pytest.approx(0.4)
        assert shown[at + 2] == pytest.approx(0.6)
        assert (mark.get_xdata().tolist(), mark.get_ydata().tolist()) == ([at], pytest.approx([0.4]))
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["own: 0", "early: 4", "late: -7"]


def test_a_curve_of_a_short_clip_has_its_least_where_it_is_known(tmp_path, drawn):
    curve = np.where(np.abs(SHIFTS) > 3, np.nan, valley(2))
    plot_curves({"short": curve, "nothing": np.full(31, np.nan)}, tmp_path / "curve.png")
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["short: 2", "nothing"]


def test_names_are_shown_as_they_are(tmp_path, drawn):
    names = ["_hidden", "cost $5 or $6", "a" * 80, r"$\frac$"]
    plot_curves(dict.fromkeys(names, valley(0)), tmp_path / "curve.png")
    texts = [text.get_text() for text in drawn[0].legends[0].texts]
    assert texts == ["_hidden: 0", r"cost \$5 or \$6: 0", "a" * 57 + "...: 0", r"\$\frac\$: 0"]


def test_many_curves_have_no_legend_and_none_is_no_error(tmp_path, drawn):
    plot_curves({str(k): valley(0) for k in range(40)}, tmp_path / "many.png")
    plot_curves({}, tmp_path / "none.png")
    assert [len(figure.legends) for figure in drawn] == [0, 0]


def test_bars_count_clips_by_offset(tmp_path, drawn):
    plot_offsets([0, 0, 1, -15, 15, 3], [0, -1], tmp_path / "sync_filter.png")
    before, after = drawn[0].axes
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in before.patches}
    assert {offset: height for offset, height in heights.items() if height} == {-15: 1, 0: 2, 1: 1, 3: 1, 15: 1}
    assert before.get_title() == "before: 6 clips, 3 of them within one frame"
    assert after.get_title() == "after: 2 clips, 2 of them within one frame"
    plot_offsets([], [], tmp_path / "empty.png")
    assert drawn[1].axes[0].get_title() == "before: 0 clips, 0 of them within one frame"


def test_pictures_can_be_read_and_nothing_is_left_beside_them(tmp_path):
    for name in ("curve.png", "CURVE.PNG", "curve.svg", "curve.pdf"):
        plot_curves({"all": valley(0)}, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CURVE.PNG", "curve.pdf", "curve.png", "curve.svg"]
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture.shape == (600, 960, 3)
    assert picture.min() < 100
    assert picture.max() == 255


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    plot_curves({"all": valley(0)}, path)
    before = path.read_bytes()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        plot_curves({"all": valley(3)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("curve.jpeg", "cannot plot to .*curve.jpeg: the file type must be one of .png, .pdf, .svg"),
        ("curve", "the file type must be one of"),
        ("missing/curve.png", "cannot plot to .*missing/curve.png: its folder does not exist"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, name, told):
    with pytest.raises(ValueError, match=told):
        plot_curves({"all": valley(0)}, tmp_path / name)
    with pytest.raises(ValueError, match=told):
        plot_offsets([0], [0], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"plotting needs matplotlib: pip install -r requirements-train\.txt"):
        plot_curves({"all": valley(0)}, tmp_path / "curve.png")


def test_matplotlib_is_asked_for_only_to_draw_and_pyplot_never(tmp_path):
    program = (
        "import sys, pathlib, numpy\nfrom syncnet.plots import plot_curves\nassert 'matplotlib' not in sys.modules\n"
        f"plot_curves({{'all': numpy.ones(31)}}, pathlib.Path({str(tmp_path / 'curve.png')!r}))\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
    assert (tmp_path / "curve.png").is_file()
