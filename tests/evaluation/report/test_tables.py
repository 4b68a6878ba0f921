"""Tables and files of an evaluation: hand-computed values, atomic writes, and complete counts."""

from __future__ import annotations

import csv
import json
import math
import re

import pytest

from evaluation.metrics.statistics import Interval
from evaluation.report import files as report
from evaluation.report.columns import COLUMNS, column
from evaluation.report.results import Evaluation, ResultRow, StressResult, SystemMetric
from evaluation.report.summary import differences, figures, ordered_systems, reasons, summary
from evaluation.report.table import Table, cell, head, legend, markdown, number, tables

SYSTEMS = ("zeta", "ours", "static", "real", "alpha")  # not in display order


def rows_of(key: str, values: dict[str, list[float | None]], protocol: str = "matched") -> list[ResultRow]:
    """A row for each value of each system; pairs a, b, c …, two per speaker."""
    return [
        ResultRow("abcdef"[k], protocol, f"s{k // 2}", system, figures={} if value is None else {key: value})
        for system, some in values.items()
        for k, value in enumerate(some)
    ]


ROWS = rows_of(
    "cosine",
    {"ours": [0.3, 0.5, 0.7], "real": [0.5, 0.6, 0.7], "other": [0.1, None, 0.2], "static": [0.0, 0.0, 0.0]},
)
FAILED = ResultRow("d", "matched", "s1", "ours", "", "d.mp4 shows no face at all")


def table_of(evaluation: Evaluation, title: str) -> Table:
    (found,) = [each for each in tables(evaluation) if each.title == title]
    return found


def test_systems_stand_in_one_order():
    assert ordered_systems([ResultRow("a", "matched", "", system) for system in SYSTEMS]) == [
        "real",
        "static",
        "ours",
        "zeta",
        "alpha",
    ]


def test_means_have_intervals_over_clips_and_a_single_clip_has_none():
    found = summary(ROWS)["matched"]
    assert list(found) == ["real", "static", "ours", "other"]
    ours = found["ours"]["cosine"]
    assert (ours.mean, ours.clips) == (pytest.approx(0.5), 3)
    assert (ours.low, ours.high) == (pytest.approx(0.3), pytest.approx(0.7))  # of three clips, the same one three times
    assert found["static"]["cosine"][:3] == (0, 0, 0)
    assert found["other"]["cosine"].clips == 2
    alone = summary([ROWS[0]])["matched"]["ours"]["cosine"]
    assert alone == Interval(0.3, None, None, 1)


def test_what_is_not_finite_counts_as_absent():
    rows = rows_of("cosine", {"ours": [0.5, math.nan, math.inf]})
    assert figures(rows, "cosine") == {"a": 0.5}
    assert summary(rows)["matched"]["ours"]["cosine"].clips == 1


def test_differences_are_of_the_clips_that_both_have():
    found = {(each.system, each.against): each.found for each in differences(ROWS)}
    assert set(found) == {("ours", "real"), ("other", "real"), ("other", "ours")}
    assert found["ours", "real"].mean == pytest.approx((-0.2 - 0.1 + 0) / 3)
    assert found["other", "ours"].mean == pytest.approx((-0.2 - 0.5) / 2)  # not the difference of the means, -0.35
    assert [found[pair].clips for pair in (("ours", "real"), ("other", "real"), ("other", "ours"))] == [3, 2, 2]
    assert found["ours", "real"].low < found["ours", "real"].mean < found["ours", "real"].high


def test_without_ours_the_first_model_is_compared_with():
    rows = rows_of("cosine", {"two": [0.2], "one": [0.3]})
    assert [(each.system, each.against) for each in differences(rows)] == [("one", "two")]


def test_protocols_are_not_mixed():
    rows = ROWS + rows_of("cosine", {"ours": [-0.9, -0.9, -0.9], "real": [0.5, 0.6, 0.7]}, "swapped")
    assert summary(rows)["matched"] == summary(ROWS)["matched"]
    assert summary(rows)["swapped"]["ours"]["cosine"].mean == pytest.approx(-0.9)


def test_the_table_says_systems_clips_judges_and_intervals():
    table = table_of(Evaluation({}, [*ROWS, FAILED]), "Own audio: sync")
    assert list(table.head) == ["system", "clips", "cosine ↑ (judge)"]
    assert [line[:2] for line in table.rows] == [
        ["real", "3 of 3"],
        ["static", "3 of 3"],
        ["ours", "3 of 4"],
        ["other", "3 of 3"],
    ]
    assert table.rows[2][2] == "0.500 [0.300, 0.700]"
    assert table.rows[3][2] == "0.150 [0.100, 0.200] (2 clips)"
    assert "LSE-D ↓ (syncnet)" in table.notes[0]
    assert "cosine" not in table.notes[0]


def test_each_column_says_which_way_is_better_and_whose_it_is():
    assert head(column("lse_d")) == "LSE-D ↓ (syncnet)"
    assert head(column("sound_r")) == "opening vs. audio, r → real"
    assert head(column("sharpness")) == "sharpness → 1"
    assert head(column("offset")) == "AV offset → 0 (judge)"
    table = legend({"identity", "fid"})
    assert [line[:2] for line in table.rows] == [
        ["identity → real (encoder)", "our face encoder"],
        ["FID ↓", "no network"],
    ]


def test_numbers_are_printed_as_their_column_says():
    assert number(-0.04, "+.1f") == "+0.0"
    assert number(-0.06, "+.1f") == "-0.1"
    assert number(None, ".2f") == number(math.nan, ".2f") == "–"
    assert cell(Interval(0.5, 0.25, 1.0, 7), ".2f", 7) == "0.50 [0.25, 1.00]"
    assert cell(Interval(0.5, None, None, 1), ".2f", 7) == "0.50 (1 clip)"
    assert cell(SystemMetric("matched", "ours", "fid", 12.34, 11, 14.06), ".1f", 7) == "12.3 [11.0, 14.1]"
    assert cell(None, ".2f") == "–"


def test_a_difference_is_marked_where_its_interval_leaves_out_zero():
    rows = rows_of("cosine", {"real": [0.5, 0.5, 0.5], "ours": [0.3, 0.4, 0.3], "other": [0.3, 0.6, 0.4]})
    table = table_of(Evaluation({}, rows), "Own audio: sync, paired differences")
    cells = {line[0]: line[2] for line in table.rows}
    assert cells["ours minus real"] == "-0.167 [-0.200, -0.100] ≠"
    assert cells["other minus real"] == "-0.067 [-0.200, +0.100]"


def test_wholes_stand_beside_the_means():
    rows = rows_of("psnr", {"ours": [30, 31], "real": [40, 40]})
    whole = SystemMetric("matched", "ours", "frechet", 1.5, 1.25, 2.5)
    table = table_of(Evaluation({}, rows, [whole]), "Own audio: image quality")
    assert table.head[-1] == "Fréchet distance, our encoder ↓ (encoder)"
    assert [line[-1] for line in table.rows] == ["–", "1.50 [1.25, 2.50]"]


def test_speakers_have_their_own_means():
    table = table_of(Evaluation({}, ROWS), "Own audio, by speaker: cosine ↑ (judge)")
    assert list(table.head) == ["speaker", "pairs", "real", "static", "ours", "other"]
    assert table.rows == [
        ["s0", "2", "0.550", "0.000", "0.400", "0.100"],
        ["s1", "1", "0.700", "0.000", "0.700", "0.200"],
    ]
    assert not [each for each in tables(Evaluation({}, ROWS[:1])) if "speaker" in each.title]


def test_nothing_fails_silently():
    rows = [
        *ROWS,
        FAILED,
        ResultRow("d", "swapped", "s1", "real", "", FAILED.reason),
        ResultRow("e", "silent", "", "ours", "", "no"),
    ]
    table = table_of(Evaluation({}, rows), "Not measured: 3 of 15 videos")
    assert table.rows == [
        [FAILED.reason, "2", "1", "real, ours", "matched, swapped"],
        ["no", "1", "1", "ours", "silent"],
    ]
    assert list(reasons(rows)) == [FAILED.reason, "no"]
    counts = report.counts(rows)
    assert (counts["videos"], counts["measured"], counts["failed"]) == (15, 12, 3)
    assert counts["reasons"] == {FAILED.reason: 2, "no": 1}
    assert counts["protocols"]["matched"]["ours"] == {"videos": 4, "measured": 3, "failed": 1}


def test_the_stress_list_is_counted_by_kind_and_system():
    trials = [
        StressResult("dark", "ours", True),
        StressResult("dark", "other", False, "no face"),
        StressResult("cut", "ours", True),
        StressResult("cut", "ours", False, "black"),
        StressResult("music", "ours", True),
    ]
    table = table_of(Evaluation({}, [], trials=trials), "Hard inputs: valid videos")
    assert table.rows == [
        ["dark", "passed", "failed"],
        ["cut", "1 of 2", "–"],
        ["music", "passed", "–"],
        ["pass rate", "75% (3 of 4)", "0% (0 of 1)"],
    ]
    assert table.notes == ["Failed: dark, other: no face.", "Failed: cut, ours: black."]
    assert report.contents(Evaluation({}, [], trials=trials))["passed"]["ours"]["share"] == 0.75


def test_markdown_keeps_its_cells_whatever_they_hold():
    text = markdown(Table("A|B", ["x", "y"], [["a|b\nc", "<i>*z* [1.0, 2.0] [a](b)"]], ["_n_"]), 2)
    assert text.splitlines() == [
        "## A\\|B",
        "",
        "| x | y |",
        "| --- | --- |",
        "| a\\|b c | &lt;i>\\*z\\* [1.0, 2.0] \\[a](b) |",
        "",
        "\\_n\\_",
    ]


STRANGE = ResultRow('-"q" <b>&\n', "matched", "łódź \udcff", "a,b;c", "videos/x.mp4", 'he said "no"\nthen left')


def test_a_line_a_video_comes_back_from_the_sheet(tmp_path):
    rows = [*ROWS, STRANGE, *rows_of("psnr", {"nan": [math.nan, 30.123456789012345]})]
    report.write(Evaluation({}, rows), tmp_path)
    with open(tmp_path / "clips.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == [*report.FIELDS, *(each.key for each in COLUMNS)]
    assert [line["pair"] for line in found] == [row.pair for row in rows]
    assert (found[-3]["reason"], found[-3]["speaker"]) == (STRANGE.reason, "łódź \\udcff")
    assert [float(line["cosine"] or "nan") for line in found[:3]] == [0.3, 0.5, 0.7]
    assert (found[-2]["psnr"], float(found[-1]["psnr"])) == ("", 30.123456789012345)


def test_the_report_holds_all_and_no_nan(tmp_path):
    curved = ResultRow("z", "stills", "s", "ours", curves={"offsets": [0.5, math.nan]}, figures={"cosine": math.inf})
    whole = SystemMetric("matched", "ours", "fid", math.nan, 1, 2)
    report.write(Evaluation({"seed": 0, "list": (1, {"x": math.nan})}, [*ROWS, curved, STRANGE], [whole]), tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert not re.search(r"\b(NaN|Infinity)\b", text)
    found = json.loads(text)
    assert found["settings"] == {"seed": 0, "list": [1, {"x": None}]}
    assert found["rows"][-2]["curves"]["offsets"] == [0.5, None]
    assert found["rows"][-1]["speaker"] == STRANGE.speaker
    assert found["wholes"][0]["value"] is None
    real = found["summary"]["matched"]["real"]["cosine"]
    assert (real["mean"], real["clips"]) == (pytest.approx(0.6), 3)
    assert {(each["system"], each["against"]) for each in found["paired"]} >= {("ours", "real"), ("other", "ours")}
    assert (found["columns"]["lse_d"]["judge"], found["columns"]["cosine"]["judge"]) == ("syncnet", "judge")


def test_an_evaluation_of_nothing_has_a_report_too(tmp_path):
    report.write(Evaluation({}, []), tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(report.NAMES)


def test_files_are_whole_or_as_before(tmp_path, monkeypatch):
    report.write(Evaluation({}, ROWS), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write(Evaluation({}, []), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_evaluation_gives_the_same_files(tmp_path):
    for name in ("one", "two"):
        report.write(Evaluation({}, ROWS), tmp_path / name)
    for name in report.NAMES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
