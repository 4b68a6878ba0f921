"""The page is well-formed, works offline and is safe with any name; its plots show the given data."""

from __future__ import annotations

import ast
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from evaluation.report import page as pages
from evaluation.report.page import address, page
from evaluation.report.plots import offset_curves, opening_over_time
from evaluation.report.results import Evaluation, ResultRow, StressResult

REPOSITORY = Path(__file__).resolve().parents[3]
VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = '<script>alert(\'x\')</script>" onerror="y" &amp; ${z} \u202eback'
LINES = np.abs(np.arange(31) - 15) / 20 + 0.3


class Reader(HTMLParser):
    """Collects tags, links and text like a browser; fails on unbalanced tags."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def row(system: str, video: str = "", reason: str = "", pair: str = "a", protocol: str = "matched") -> ResultRow:
    curves = {} if reason else {"offsets": LINES.tolist(), "opening": [0.0, 2.0, 1.0], "envelope": [-6.0, -3.0, -2.0]}
    return ResultRow(pair, protocol, "anna", system, video, reason, {} if reason else {"cosine": 0.625}, curves)


def test_all_videos_are_there_and_baselines_are_folded(monkeypatch):
    monkeypatch.setattr(pages, "can_plot", lambda: False)
    systems = ("ours", "copy", "real", "other")
    rows = [row(system, f"videos/matched/a/{system}.mp4") for system in systems]
    text = page(Evaluation({}, rows))
    assert [each["src"] for each in Reader(text).all("video")] == [
        f"./videos/matched/a/{system}.mp4" for system in ("real", "ours", "other", "copy")
    ]
    fold = text.index("<summary>Baselines</summary>")
    assert text.index("other.mp4") < fold < text.index("copy.mp4")
    assert "0.625" in text


def test_all_but_the_real_video_are_called_synthetic():
    text = "".join(Reader(page(Evaluation({}, []))).text)
    assert "All videos on this page except the real ones are synthetic" in text
    assert "consent" in text


def test_nothing_is_asked_of_the_net():
    text = page(Evaluation({}, [row("ours", "x.mp4"), row("real", "y.mp4")]))
    links = [value for _, each in Reader(text).tags for name, value in each.items() if name in ("src", "href")]
    assert links
    assert not [link for link in links if not link.startswith(("./", "#"))]
    assert "@import" not in text
    assert "url(http" not in text


def test_names_of_strangers_stay_text(monkeypatch):
    monkeypatch.setattr(pages, "can_plot", lambda: False)
    rows = [row(HOSTILE, f"videos/{HOSTILE}.mp4", pair=HOSTILE), row("real", "", HOSTILE, pair=HOSTILE)]
    rows[0].speaker = HOSTILE
    trials = [StressResult(HOSTILE, HOSTILE, False, HOSTILE, f"{HOSTILE}.mp4")]
    read = Reader(page(Evaluation({HOSTILE: HOSTILE, "more": [HOSTILE]}, rows, trials=trials)))
    assert len(read.all("script")) == 1
    assert not [each for _, each in read.tags if "onerror" in each]
    assert "".join(read.text).count("<script>alert(") >= 8
    assert "\u202e" not in "".join(read.text)
    assert unquote(read.all("video")[-1]["src"]) == f"./videos/{HOSTILE}.mp4"


@pytest.mark.parametrize("name", ["a b", "50%", "q?x#y", "javascript:alert(1)", "-dash", "ä 'q' \"p\"", "\udcff"])
def test_links_lead_to_the_file_whatever_its_name(name):
    link = address(f"videos/{name}.mp4")
    assert link.isascii()
    assert not set(link) & set("\"'<>?#: ")
    assert unquote(link, errors="surrogateescape") == f"./videos/{name}.mp4"


def test_a_link_names_no_host():
    assert address("//evil.example/x.mp4") == "/evil.example/x.mp4"
    assert address("javascript:alert(1)") == "./javascript%3Aalert%281%29"


def test_what_failed_is_shown_with_its_reason(monkeypatch):
    monkeypatch.setattr(pages, "can_plot", lambda: False)
    text = page(
        Evaluation({}, [row("real", "r.mp4"), row("ours", "", "no face at all"), row("other", "o.mp4", "short")])
    )
    figures = [part.partition("</figure>")[0] for part in text.split("<figure")[1:]]
    assert ["<video" in figure for figure in figures] == [True, False, True]
    assert ['class="why"' in figure for figure in figures] == [False, True, True]
    assert "no face at all" in figures[1]
    assert "3 videos: 1 measured, 2 failed" in text


def test_a_pair_without_videos_has_no_button(monkeypatch):
    monkeypatch.setattr(pages, "can_plot", lambda: False)
    assert "play all</button>" in page(Evaluation({}, [row("real", "r.mp4")]))
    assert "play all</button>" not in page(Evaluation({}, [row("real", "", "missing")]))


def test_without_matplotlib_there_is_a_page_that_says_so(monkeypatch):
    monkeypatch.setattr(pages, "can_plot", lambda: False)
    text = page(Evaluation({}, [row("real", "r.mp4")]))
    assert "<svg" not in text
    assert "No plots: they require matplotlib" in text
    monkeypatch.undo()
    assert page(Evaluation({}, [row("real", "r.mp4")])).count("<svg") == 2


def test_settings_are_shown():
    text = "".join(Reader(page(Evaluation({"seed": 7, "models": {"ours": "abc"}}, []))).text)
    assert "seed7" in text
    assert '{"ours": "abc"}' in text


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The matplotlib figures that are saved."""
    from matplotlib.figure import Figure

    figures: list = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    return figures


def test_offsets_run_from_early_to_late_with_the_least_marked(drawn):
    late = row("unsynced")
    late.curves["offsets"] = np.roll(LINES, 4).tolist()  # the minimum in column 19: offset -4
    offset_curves([row("real"), late])
    line, mark, late_line, late_mark = drawn[0].axes[0].lines[:4]
    assert line.get_xdata().tolist() == list(range(15, -16, -1))
    assert line.get_ydata().tolist() == LINES.tolist()
    assert late_line.get_ydata().min() == pytest.approx(0.3)
    assert (mark.get_xdata().tolist(), late_mark.get_xdata().tolist()) == ([0], [-4])
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().texts] == ["real", "unsynced"]


def test_openings_lie_over_seconds_and_the_models_sound(drawn):
    real = row("real")
    real.curves["envelope"] = [-1.0, -1.0, -1.0]
    opening_over_time([real, row("ours")])
    axes, level = drawn[0].axes
    assert axes.lines[1].get_xdata().tolist() == [0, 0.04, 0.08]
    assert axes.lines[1].get_ydata().tolist() == [0, 2, 1]
    corners = level.collections[0].get_paths()[0].vertices
    assert {(0.04, -3.0), (0.08, -2.0)} <= {(float(x), float(y)) for x, y in corners.round(6)}


def test_gaps_in_curves_and_no_curves_are_no_error(drawn):
    holes, empty = row("ours"), row("other")
    holes.curves["offsets"] = [float("nan")] * 31
    empty.curves = {}
    assert offset_curves([holes, empty]).startswith("<svg")
    assert len(drawn[0].axes[0].lines) == 2  # its own and the one at offset 0
    assert offset_curves([empty]) == opening_over_time([empty]) == ""


def test_drawings_are_small_whole_and_do_not_clash():
    one, two = offset_curves([row("real")]), offset_curves([row("real", pair="b")])
    names = [
        {
            each.get("id")
            for each in ElementTree.fromstring(text).iter()
            if (each.get("id") or "_").startswith(("p", "m"))
        }
        for text in (one, two)
    ]
    clips = [{name for name in some if "_" not in name and len(name) > 8} for some in names]
    assert clips[0]
    assert not clips[0] & clips[1]
    assert one == offset_curves([row("real")])
    assert len(one) < 40_000
    assert "<metadata" not in one


def test_names_in_legends_are_text():
    rows = [row(name) for name in ("_hidden", "cost $5 or $6", "<b>&", "x" * 90)]
    text = "".join(ElementTree.fromstring(offset_curves(rows)).itertext())
    for name in ("_hidden", "cost $5 or $6", "<b>&", "x" * 21 + "..."):
        assert name in text
    assert "x" * 22 not in text


def test_not_everybody_has_what_draws():
    for path in (REPOSITORY / "evaluation").glob("*.py"):
        top = [
            node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {name.split(".")[0] for node in top for name in [getattr(node, "module", None) or node.names[0].name]}
        assert not names & {"matplotlib", "torchmetrics"}, path.name
