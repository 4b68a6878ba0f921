"""Output files of an evaluation: report.json with everything, clips.csv with a line per video, and report.html."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.report.columns import COLUMNS, SYSTEM_COLUMNS
from evaluation.report.page import page
from evaluation.report.results import Evaluation, ResultRow, StressResult
from evaluation.report.summary import differences, ordered_systems, pass_count, reasons, select_rows, summary
from evaluation.report.table import JUDGES
from preprocessing.commands import write_whole

FIELDS = ("pair", "protocol", "speaker", "system", "video", "reason")
NAMES = ("report.json", "clips.csv", "report.html")


def write(evaluation: Evaluation, out: Path) -> None:
    """Write the files of `NAMES` atomically into the folder, which is created if missing.

    Raises:
        OSError: a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    texts = (_json(contents(evaluation)), clips_csv(evaluation.rows), page(evaluation))
    for name, text in zip(NAMES, texts, strict=True):
        write_whole(out / name, text)


def contents(evaluation: Evaluation) -> dict[str, Any]:
    """The contents of report.json.

    Returns:
        settings: how the metrics were computed. counts: videos requested, measured and failed, by protocol and system,
        and the reasons. columns: meaning of each key, better direction and network. summary: by protocol, system and
        key, the mean over clips with its 95 % interval (low and high are null for a single clip). paired: the mean
        difference of each model from another system over their common clips. wholes (system-level metrics), trials,
        rows: unchanged, with nan as null.
    """
    return {
        "settings": dict(evaluation.settings),
        "counts": counts(evaluation.rows),
        "columns": {
            each.key: asdict(each) | {"measured_with": JUDGES[each.judge]} for each in (*COLUMNS, *SYSTEM_COLUMNS)
        },
        "summary": {
            protocol: {
                system: {key: found._asdict() for key, found in keys.items()} for system, keys in systems.items()
            }
            for protocol, systems in summary(evaluation.rows).items()
        },
        "paired": [
            {"protocol": each.protocol, "system": each.system, "against": each.against, "key": each.key}
            | each.found._asdict()
            for each in differences(evaluation.rows)
        ],
        "wholes": [asdict(each) for each in evaluation.system_metrics],
        "passed": _passed(evaluation.trials),
        "trials": [asdict(each) for each in evaluation.trials],
        "rows": [asdict(each) for each in evaluation.rows],
    }


def counts(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Number of measured and failed videos, in total and by protocol and system; failures by reason."""
    by_protocol = {
        protocol: {
            system: _counted(select_rows(rows, protocol, system))
            for system in ordered_systems(select_rows(rows, protocol))
        }
        for protocol in dict.fromkeys(row.protocol for row in rows)
    }
    why = {reason: len(failed) for reason, failed in reasons(rows).items()}
    return _counted(rows) | {"protocols": by_protocol, "reasons": why}


def _counted(rows: Sequence[ResultRow]) -> dict[str, int]:
    failed = sum(bool(row.reason) for row in rows)
    return {"videos": len(rows), "measured": len(rows) - failed, "failed": failed}


def _passed(trials: Sequence[StressResult]) -> dict[str, dict[str, float]]:
    """Pass rate on hard inputs by system."""
    shares = {system: pass_count(trials, system) for system in ordered_systems(trials)}
    return {system: {"passed": p, "given": given, "share": p / given} for system, (p, given) in shares.items()}


def clips_csv(rows: Sequence[ResultRow]) -> str:
    """One line per video: its identification and all metrics, empty where unavailable."""
    keys = [each.key for each in COLUMNS]
    text = io.StringIO()
    table = csv.DictWriter(text, [*FIELDS, *keys], lineterminator="\n")
    table.writeheader()
    for row in rows:
        finite = {key: row.figures[key] for key in keys if math.isfinite(row.figures.get(key, math.nan))}
        table.writerow({name: getattr(row, name) for name in FIELDS} | finite)
    return text.getvalue()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Replace non-finite numbers, which JSON cannot represent, by None."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
