"""Filters a dataset by lip sync and repairs its AV offsets: `python -m syncnet.sync_filter CLIPS`.

Measures each clip's AV offset and its confidence with a sync expert and writes them to the manifest. Trainers then read
only the clips that pass, with their offsets repaired. Measurements are cached in offsets.jsonl, so that an interrupted
run resumes and other limits can be tried without measuring again.

Exit codes: 0 when at least one clip passes, 1 when none does, 2 for invalid usage, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.build.build_state import STATE, locked
from preprocessing.build.report import write_report
from preprocessing.commands import Parser, fail, run_command, say
from preprocessing.dataset.clips import CLIP_FPS
from preprocessing.dataset.manifest import ClipRow, read_manifest, write_rows
from preprocessing.errors import UsageError, display_path
from syncnet.measurements import OffsetMeasurements, OffsetTask
from syncnet.offset import REACH, SyncScore
from syncnet.plots import plot_offsets
from syncnet.sync_expert import EXPERT

MIN_FRAMES = 35  # 31 windows: at the largest shift, half of them still have audio to compare with
STAGES = ("before", "after")
BAR_LENGTH = 40  # characters of the histogram's longest bar


@dataclass(frozen=True)
class FilterLimits:
    """Limits for a clip to pass.

    Attributes:
        max_offset: in frames. Recording equipment and stream cutting cause offsets of a few frames; a larger one means
            dubbing, someone else's voice, or a wrong measurement.
        min_confidence: median minus minimum of a clip's distance curve. Of 624 real clips of 63 people, all within six
            frames, 98.6 % reach 0.1; the rest are one speaker's single syllables. Of 481 pairings of one clip's video
            with another's audio, 16 % pass both limits. At 0.2 only 5 % would, but that speaker would be lost.
    """

    max_offset: int = 6
    min_confidence: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.max_offset < REACH:
            raise UsageError(f"max-offset must be 0 to {REACH - 1} frames, not {self.max_offset}")
        if not 0 <= self.min_confidence <= 2:
            raise UsageError(f"min-confidence must be 0 to 2, not {self.min_confidence}")

    def verdict(self, score: SyncScore | None) -> str:
        """The manifest entry: "pass" or why it is dropped; without confidence the offset is noise."""
        if score is None:
            return "short"
        if score.confidence < self.min_confidence:
            return "confidence"
        return "pass" if abs(score.offset) <= self.max_offset else "offset"


@dataclass(frozen=True)
class FilterResult:
    """The outcome of filtering a dataset.

    Attributes:
        rows: the clips that passed the build's checks, with offset, confidence and verdict.
        left: offsets of the clips that pass, measured again after the repair.
    """

    rows: Sequence[ClipRow]
    left: Sequence[int]

    @property
    def found(self) -> list[int]:
        """The offsets before the repair."""
        return [round(row.offset) for row in self.rows if row.offset is not None]

    @property
    def passed(self) -> list[ClipRow]:
        """The clips to train on."""
        return [row for row in self.rows if row.passes]

    def summary(self) -> dict[str, Any]:
        """Statistics for JSON: clips, minutes, share within one frame, histograms, and the same by speaker."""
        by_speaker: dict[str, list[ClipRow]] = {}
        for row in self.rows:
            by_speaker.setdefault(row.speaker, []).append(row)
        return {
            "clips": len(self.rows), "passed": len(self.passed), "moved": sum(row.shift != 0 for row in self.passed),
            "dropped": _histogram(row.sync_filter for row in self.rows if not row.passes),
            "minutes": {
                "before": sum(row.frames for row in self.rows) / CLIP_FPS / 60,
                "after": sum(row.usable_frames for row in self.passed) / CLIP_FPS / 60,
            },
            "within_1": {"before": _within_1(self.found), "after": _within_1(self.left)},
            "offsets": {"before": _histogram(self.found), "after": _histogram(self.left)},
            "speakers": {name: _speaker_summary(rows) for name, rows in sorted(by_speaker.items())},
        }  # fmt: skip


def _speaker_summary(rows: Sequence[ClipRow]) -> dict[str, Any]:
    """Number of clips, and medians of offset and confidence; None if no clip was measured."""
    offsets = [row.offset for row in rows if row.offset is not None]
    confidences = [row.confidence for row in rows if row.confidence is not None]
    return {
        "clips": len(rows), "passed": sum(row.passes for row in rows),
        "offset": float(np.median(offsets)) if offsets else None,
        "confidence": float(np.median(confidences)) if confidences else None,
    }  # fmt: skip


def _within_1(offsets: Sequence[int]) -> float | None:
    return sum(abs(offset) <= 1 for offset in offsets) / len(offsets) if offsets else None


def _histogram(values: Iterable[Any]) -> dict[str, int]:
    """Occurrences of each value, sorted by value."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def table(summary: dict[str, Any]) -> str:
    """The summary as text for a terminal, without a trailing newline."""
    before, after = ({int(name): count for name, count in summary["offsets"][stage].items()} for stage in STAGES)
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary["dropped"].items())
    lines = [
        f"clips     {summary['clips']}: {summary['passed']} pass, {summary['moved']} of them moved; "
        f"{summary['clips'] - summary['passed']} dropped" + (f" ({dropped})" if dropped else ""),
        f"minutes   {summary['minutes']['before']:.1f} before, {summary['minutes']['after']:.1f} after",
        "within 1  " + ", ".join(f"{_percent(summary['within_1'][stage])} {stage}" for stage in STAGES),
        "", "offset in frames (positive: the audio is early)", f"{'':8}{'before':>8}{'after':>8}",
    ]  # fmt: skip
    most, offsets = max([*before.values(), 1]), [*before, *after, 0]
    for offset in range(min(offsets), max(offsets) + 1):
        bar = "#" * -(-BAR_LENGTH * before.get(offset, 0) // most)
        lines.append(f"{offset:+8d}{before.get(offset, 0):8d}{after.get(offset, 0):8d}  {bar}".rstrip())
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def filter_clips(
    clips: Path, expert: Path = EXPERT, limits: FilterLimits = FilterLimits(), workers: int = 0, dry_run: bool = False
) -> FilterResult:  # fmt: skip
    """Measures the clips that passed the build's checks and writes manifest.csv, sync_filter.json and sync_filter.png.

    Clips are measured as stored, regardless of earlier filtering.

    Args:
        clips: a folder written by preprocessing.build.
        expert: the sync expert's checkpoint.
        limits: what passes.
        workers: worker processes; 0: measure in this process.
        dry_run: write only the measurements (offsets.jsonl).

    Raises:
        UsageError: the dataset or the expert does not exist, or a clip is damaged.
        OSError: the folder cannot be written.
    """
    manifest = clips / "manifest.csv"
    if not manifest.is_file():
        raise UsageError(f"{display_path(clips)} has no manifest.csv; create it with preprocessing.build")
    # A running build also writes the manifest. Imported clips have no build state.
    with locked(clips) if (clips / STATE).is_dir() else nullcontext():
        rows = read_manifest(manifest)
        candidates = [row for row in rows if row.clip and not row.reason]
        if not candidates:
            raise UsageError(
                f"{display_path(clips)} has no clip that passes the build's checks; its manifest.csv says why"
            )
        result = _score_and_filter(candidates, OffsetMeasurements(clips, expert, workers), limits)
        if not dry_run:
            write_rows(manifest, rows)
            write_report(clips / "sync_filter.json", asdict(limits) | {"expert": str(expert)} | result.summary())
            _plot(result, clips / "sync_filter.png")
    return result


def _score_and_filter(rows: Sequence[ClipRow], measurements: OffsetMeasurements, limits: FilterLimits) -> FilterResult:
    """Sets the rows' offset, confidence and verdict, and measures the repaired clips again."""
    scores = measurements.scores([OffsetTask.of(row) for row in rows if row.frames >= MIN_FRAMES], "clip")
    for row in rows:
        score = scores.get(OffsetTask.of(row))
        row.offset, row.confidence = (score.offset, score.confidence) if score else (None, None)
        row.sync_filter = limits.verdict(score)
    passed = [OffsetTask.of(row, row.shift) for row in rows if row.passes]
    left = measurements.scores(passed, "clip, repaired")
    return FilterResult(rows, [score.offset for score in left.values()])


def _plot(result: FilterResult, path: Path) -> None:
    """Plots the offsets; the plot is skipped where matplotlib is missing."""
    try:
        plot_offsets(result.found, result.left, path)
    except ValueError as error:
        print(f"no {path.name}: {error}", file=sys.stderr)


PROGRAM = "syncnet.sync_filter"
RESUMES = "run the same command again to resume"


def _parser() -> argparse.ArgumentParser:
    """The argument parser; flags are named like the arguments of `filter_clips` and `FilterLimits`."""
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder written by preprocessing.build")
    parser.add_argument(
        "--expert", type=Path, default=EXPERT, metavar="FILE", help="sync expert (default: the included one)"
    )
    parser.add_argument(
        "--max-offset", type=int, default=FilterLimits.max_offset, metavar="N",
        help="largest offset to repair, in frames of 40 ms; clips with more are dropped (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min-confidence", type=float, default=FilterLimits.min_confidence, metavar="X",
        help="smallest confidence of the offset: median minus minimum distance (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="measure and print, but leave manifest.csv unchanged")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="worker processes (default: 0, measure in this process)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = _parser().parse_args(argv)

    def job() -> int:
        limits = FilterLimits(args.max_offset, args.min_confidence)
        try:
            result = filter_clips(args.clips, args.expert, limits, args.workers, args.dry_run)
        except BrokenProcessPool:
            return fail(PROGRAM, 1, f"a worker process was killed, possibly out of memory; {RESUMES}")
        say(table(result.summary()))
        return 0 if result.passed else fail(PROGRAM, 1, "no clip passes")

    return run_command(PROGRAM, job, f"interrupted; {RESUMES}")


if __name__ == "__main__":
    sys.exit(main())
