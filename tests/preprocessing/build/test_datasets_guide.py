"""docs/datasets.md matches the code: flags, quality filters and manifest columns."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from preprocessing.build import command as build
from preprocessing.dataset.manifest import ClipRow
from preprocessing.dataset.quality_filters import QualityFilters
from syncnet import sync_filter
from syncnet.sync_filter import MIN_FRAMES, FilterLimits

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "datasets.md").read_text(encoding="utf-8")
DASKS = {"--host", "--port", "--nworkers", "--nthreads", "--scheduler-file"}


def test_every_flag_exists(capsys):
    for command in (build, sync_filter):
        with pytest.raises(SystemExit):
            command.main(["--help"])
    known = {"--" + flag.replace("-", "_") for flag in re.findall(r"--([a-z][\w.-]*)", capsys.readouterr().out)}
    named = set(re.findall(r"--[a-z][\w.-]*\w", GUIDE)) - DASKS
    assert len(named) > 20
    assert {flag for flag in named if "--" + flag[2:].replace("-", "_") not in known} == set()


def test_the_table_of_gates_has_the_defaults():
    rows = {row[0]: row for line in GUIDE.splitlines() if len(row := [x.strip() for x in line.split("|")[1:-1]]) == 4}
    for item in fields(QualityFilters):
        bound, name = item.name.split("_")
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", rows[name][1])]
        assert numbers[-1 if bound == "max" else 0] == item.default
        assert f"--filters.{item.name.replace('_', '-')}" in rows[name][2]


def test_every_column_is_named():
    words = set(re.findall(r"\w+", GUIDE[GUIDE.index("Columns of") : GUIDE.index("## Stopping")]))
    assert {field.name for field in fields(ClipRow)} <= words


def test_the_table_of_verdicts_has_the_defaults():
    bounds = {"short": MIN_FRAMES, "confidence": FilterLimits.min_confidence, "offset": FilterLimits.max_offset}
    for verdict, bound in bounds.items():
        (line,) = (line for line in GUIDE.splitlines() if line.startswith(f"| `{verdict}` | "))
        assert float(re.findall(r"\d+\.?\d*", line)[0]) == bound
