"""The benchmark that writes a results document: its pair list and its document."""

import csv

from benchmarks.quality import document, write_list
from evaluation.report.results import Evaluation, ResultRow, StressResult
from tests.material import write_photo


def test_the_list_holds_every_video_but_those_of_who_is_skipped(tmp_path):
    for name in ("anna__one.mp4", "anna__two.mp4", "bob, the 2nd__one.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    write_photo(tmp_path / "carl.png")
    assert write_list(tmp_path, ["anna"], tmp_path / "out" / "pairs.csv") == 1
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["face"] == row["audio"] == str(tmp_path / "bob, the 2nd__one.mp4")
    assert row["speaker"] == "bob, the 2nd"


def test_the_document_has_the_tables_the_judge_and_the_settings():
    rows = [
        ResultRow("p", "matched", "anna", system, figures={"cosine": value, "psnr": 25.0})
        for system, value in (("real", 0.5), ("ours", 0.25))
    ]
    failed = ResultRow("q", "matched", "bob", "ours", reason="q.mp4 shows no face at all")
    trials = [StressResult("dark", "ours", True), StressResult("small", "ours", False, "it has no sound")]
    text = document(Evaluation({"seconds": 4}, [*rows, failed], (), trials), "## judge: all well\n", "run it")
    for expected in (
        "    run it", "2 of 3 videos", "| real | 1 of 1 |", "0.250", "shows no face", "no sound", "### judge",
        "* seconds: 4",
    ):  # fmt: skip
        assert expected in text, expected
