"""Repairs and filters a data set with an expert.

`python -m syncnet.sync_filter CLIPS` measures by how many frames sound and picture of each clip are apart and how sure that
is, and writes it into the manifest. Trainers then read a clip that passes with its offset repaired, and no other. What
was measured is kept in offsets.jsonl, so that a run that was stopped goes on and other limits cost nothing.
Exit code: 0 when a clip passes, 1 when none does, 2 for wrong usage, 130 when interrupted.
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
from preprocessing.commands import Parser, fail, run_command
from preprocessing.dataset.clips import CLIP_FPS
from preprocessing.dataset.manifest import ClipRow, read_manifest, write_rows
from preprocessing.errors import UsageError, display_path
from syncnet.measurements import OffsetMeasurements, OffsetTask
from syncnet.offset import REACH, SyncScore
from syncnet.plots import plot_offsets
from syncnet.sync_expert import EXPERT

SHORTEST = 35  # frames: 31 windows, so that at the farthest shift half of them still have a sound to be compared with
WHEN = ("before", "after")
BAR = 40  # characters of the histogram's longest bar


@dataclass(frozen=True)
class FilterLimits:
    """What passes.

    Attributes:
        max_offset: frames. Recordings are some frames off, by their equipment or by how a stream was cut; what seems
            farther off is dubbed, another person's voice, or a mistake of the expert.
        min_confidence: the median of a clip's curve of distances less its least. Of 624 real clips of 63 people, all of
            them within six frames, 98.6 % reach 0.1, and what does not is one speaker's single syllables. Of 481
            pairings of one clip's mouth with another's sound 16 % pass both limits. With 0.2 these would be 5 %, but
            that speaker would be lost.
    """

    max_offset: int = 6
    min_confidence: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.max_offset < REACH:
            raise UsageError(f"max-offset must be 0 to {REACH - 1} frames, not {self.max_offset}")
        if not 0 <= self.min_confidence <= 2:
            raise UsageError(f"min-confidence must be 0 to 2, not {self.min_confidence}")

    def verdict(self, score: SyncScore | None) -> str:
        """The manifest's word for a clip: "pass", or why it is dropped. Without confidence its offset says nothing."""
        if score is None:
            return "short"
        if score.confidence < self.min_confidence:
            return "confidence"
        return "pass" if abs(score.offset) <= self.max_offset else "offset"


@dataclass(frozen=True)
class FilterResult:
    """What became of a data set's clips.

    Attributes:
        rows: the clips that no gate of the build had thrown away, with offset, confidence and sync_filter.
        left: the offsets of those that pass, measured again after the repair.
    """

    rows: Sequence[ClipRow]
    left: Sequence[int]

    @property
    def found(self) -> list[int]:
        """The offsets before."""
        return [round(row.offset) for row in self.rows if row.offset is not None]

    @property
    def passed(self) -> list[ClipRow]:
        """What is left to train on."""
        return [row for row in self.rows if row.passes]

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON: clips, minutes, shares within a frame, histograms; and by speaker."""
        by_speaker: dict[str, list[ClipRow]] = {}
        for row in self.rows:
            by_speaker.setdefault(row.speaker, []).append(row)
        return {
            "clips": len(self.rows), "passed": len(self.passed), "moved": sum(row.shift != 0 for row in self.passed),
            "dropped": _counted(row.sync_filter for row in self.rows if not row.passes),
            "minutes": {
                "before": sum(row.frames for row in self.rows) / CLIP_FPS / 60,
                "after": sum(row.usable_frames for row in self.passed) / CLIP_FPS / 60,
            },
            "within_1": {"before": _within_1(self.found), "after": _within_1(self.left)},
            "offsets": {"before": _counted(self.found), "after": _counted(self.left)},
            "speakers": {name: _figures(rows) for name, rows in sorted(by_speaker.items())},
        }  # fmt: skip


def _figures(rows: Sequence[ClipRow]) -> dict[str, Any]:
    """Of some clips: how many, and the medians of offset and confidence, None where none was measured."""
    offsets = [row.offset for row in rows if row.offset is not None]
    confidences = [row.confidence for row in rows if row.confidence is not None]
    return {
        "clips": len(rows), "passed": sum(row.passes for row in rows),
        "offset": float(np.median(offsets)) if offsets else None,
        "confidence": float(np.median(confidences)) if confidences else None,
    }  # fmt: skip


def _within_1(offsets: Sequence[int]) -> float | None:
    return sum(abs(offset) <= 1 for offset in offsets) / len(offsets) if offsets else None


def _counted(values: Iterable[Any]) -> dict[str, int]:
    """How often each occurs, in order."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def table(summary: dict[str, Any]) -> str:
    """The summary as text for a terminal, without a newline at its end."""
    before, after = ({int(name): count for name, count in summary["offsets"][when].items()} for when in WHEN)
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary["dropped"].items())
    lines = [
        f"clips     {summary['clips']}: {summary['passed']} pass, {summary['moved']} of them moved; "
        f"{summary['clips'] - summary['passed']} dropped" + (f" ({dropped})" if dropped else ""),
        f"minutes   {summary['minutes']['before']:.1f} before, {summary['minutes']['after']:.1f} after",
        "within 1  " + ", ".join(f"{_share(summary['within_1'][when])} {when}" for when in WHEN),
        "", "offset in frames (positive: the sound comes early)", f"{'':8}{'before':>8}{'after':>8}",
    ]  # fmt: skip
    most, offsets = max([*before.values(), 1]), [*before, *after, 0]
    for offset in range(min(offsets), max(offsets) + 1):
        bar = "#" * -(-BAR * before.get(offset, 0) // most)
        lines.append(f"{offset:+8d}{before.get(offset, 0):8d}{after.get(offset, 0):8d}  {bar}".rstrip())
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def filter_clips(
    clips: Path, expert: Path = EXPERT, limits: FilterLimits = FilterLimits(), workers: int = 0, dry_run: bool = False
) -> FilterResult:  # fmt: skip
    """Measures the clips that the build's gates let pass, and writes manifest.csv, screen.json and screen.png.

    Clips are measured as they are stored, whatever an earlier screening found.

    Args:
        clips: what preprocessing.build wrote.
        expert: the checkpoint by which they are judged.
        limits: what passes.
        workers: processes that measure; 0: this one.
        dry_run: write nothing but what was measured (offsets.jsonl).

    Raises:
        UsageError: there is no such data set, no such expert, or a clip is damaged.
        OSError: the folder cannot be written to.
    """
    manifest = clips / "manifest.csv"
    if not manifest.is_file():
        raise UsageError(f"{display_path(clips)} has no manifest.csv; make clips with preprocessing.build")
    # A build writes the manifest, too. Imported clips have no build.
    with locked(clips) if (clips / STATE).is_dir() else nullcontext():
        rows = read_manifest(manifest)
        judged = [row for row in rows if row.clip and not row.reason]
        if not judged:
            raise UsageError(f"{display_path(clips)} has no clip that passes the gates; manifest.csv there says why")
        screening = _judge(judged, OffsetMeasurements(clips, expert, workers), limits)
        if not dry_run:
            write_rows(manifest, rows)
            write_report(clips / "screen.json", asdict(limits) | {"expert": str(expert)} | screening.summary())
            _draw(screening, clips / "screen.png")
    return screening


def _judge(rows: Sequence[ClipRow], measurements: OffsetMeasurements, limits: FilterLimits) -> FilterResult:
    """Sets the rows' offset, confidence and sync_filter, and measures again what is repaired."""
    scores = measurements.scores([OffsetTask.of(row) for row in rows if row.frames >= SHORTEST], "clip")
    for row in rows:
        score = scores.get(OffsetTask.of(row))
        row.offset, row.confidence = (score.offset, score.confidence) if score else (None, None)
        row.sync_filter = limits.verdict(score)
    passed = [OffsetTask.of(row, row.shift) for row in rows if row.passes]
    left = measurements.scores(passed, "clip, repaired")
    return FilterResult(rows, [score.offset for score in left.values()])


def _draw(screening: FilterResult, path: Path) -> None:
    """A table without its picture is better than none: matplotlib may be missing."""
    try:
        plot_offsets(screening.found, screening.left, path)
    except ValueError as error:
        print(f"no {path.name}: {error}", file=sys.stderr)


PROGRAM = "syncnet.sync_filter"
RESUMES = "the same command goes on where it was"


def _parser() -> argparse.ArgumentParser:
    """The flags are named as `filter_clips` and `FilterLimits` name their arguments."""
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("clips", type=Path, metavar="CLIPS", help="folder made by preprocessing.build")
    parser.add_argument(
        "--expert", type=Path, default=EXPERT, metavar="FILE", help="default: the one that comes with it"
    )
    parser.add_argument(
        "--max-offset", type=int, default=FilterLimits.max_offset, metavar="N",
        help="frames of 40 ms that are repaired; clips farther off are dropped (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min-confidence", type=float, default=FilterLimits.min_confidence, metavar="X",
        help="of the offset: the median of the curve of distances less its least (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="leave manifest.csv as it is: measure and print")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: 0, this one)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = _parser().parse_args(argv)

    def job() -> int:
        limits = FilterLimits(args.max_offset, args.min_confidence)
        try:
            result = filter_clips(args.clips, args.expert, limits, args.workers, args.dry_run)
        except BrokenProcessPool:
            return fail(PROGRAM, 1, f"a worker was killed, perhaps for lack of memory; {RESUMES}")
        print(table(result.summary()))
        return 0 if result.passed else fail(PROGRAM, 1, "no clip passes")

    return run_command(PROGRAM, job, f"interrupted; {RESUMES}")


if __name__ == "__main__":
    sys.exit(main())
