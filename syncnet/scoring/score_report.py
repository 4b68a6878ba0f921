"""The sync report of a video: one row per person for the whole video and for each five-second span."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import display_path
from syncnet.offset import SyncScore, shift_curve, sync_score
from syncnet.scoring.video_scoring import ScoredTrack

SPAN_SECONDS = 5
MIN_SPAN_WINDOWS = 25  # a span with less than a second of speech is not scored


@dataclass(frozen=True)
class ScoreRow:
    """One person in one span of a video.

    Attributes:
        person: number, from 1.
        start, end: in seconds.
        whole: whether the row covers the whole video; start and end are then where the person is visible.
        score: None if there is too little speech.
        speaks: whether the person has the highest confidence in the span.
    """

    person: int
    start: float
    end: float
    whole: bool
    score: SyncScore | None
    speaks: bool = False

    def values(self) -> dict[str, object]:
        """The values as written to JSON."""
        score = self.score
        return {
            "person": self.person, "from": round(self.start, 3), "to": round(self.end, 3), "whole": self.whole,
            "offset": score and score.offset, "milliseconds": score and score.milliseconds,
            "distance": score and round(score.distance, 4), "confidence": score and round(score.confidence, 4),
            "windows": score.windows if score else 0, "speaks": self.speaks,
        }  # fmt: skip


@dataclass(frozen=True)
class VideoScore:
    """Sync scores of a video.

    Attributes:
        path: the video.
        seconds: its length.
        rows: one per person for the whole video, then those of its spans, in order.
        curves: by person, the mean distance at each shift (31,), see `syncnet.offset.shift_curve`.
    """

    path: Path
    seconds: float
    rows: list[ScoreRow]
    curves: dict[int, np.ndarray] = field(repr=False)

    @property
    def speaker(self) -> ScoreRow:
        """The whole-video row of the speaker."""
        return next(row for row in self.rows if row.whole and row.speaks)

    def values(self) -> dict[str, object]:
        """The values as written to JSON."""
        rows = [row.values() for row in self.rows]
        return {"video": str(self.path), "seconds": self.seconds, "speaker": self.speaker.person, "rows": rows}


def report(
    path: Path, seconds: float, people: Sequence[ScoredTrack], scored_windows: Callable[[np.ndarray], np.ndarray]
) -> VideoScore:  # fmt: skip
    """Builds the report.

    Args:
        path, seconds: the video and its length.
        people: at least one.
        scored_windows: from (W,) first frames to (W,) bool, the windows to score.
    """
    whole, spans, curves = list[ScoreRow](), list[ScoreRow](), {}
    for number, person in enumerate(people, 1):
        selected = scored_windows(person.starts)
        score = sync_score(person.distances, selected)
        whole.append(ScoreRow(number, person.first / CLIP_FPS, person.last / CLIP_FPS, True, score))
        curves[number] = shift_curve(person.distances[selected])
        spans += _spans(number, person, selected, seconds)
    starts = sorted({row.start for row in spans})
    groups = [whole] + [[row for row in spans if row.start == start] for start in starts]
    return VideoScore(path, seconds, [row for group in groups for row in _mark_speaker(group)], curves)


def _spans(number: int, person: ScoredTrack, scored: np.ndarray, seconds: float) -> list[ScoreRow]:
    """One person's five-second rows; a window belongs to the span in which it starts."""
    rows, span = [], person.starts // (SPAN_SECONDS * CLIP_FPS)
    for k in np.unique(span).tolist():
        selected = scored & (span == k)
        score = sync_score(person.distances, selected) if selected.sum() >= MIN_SPAN_WINDOWS else None
        rows.append(
            ScoreRow(number, float(SPAN_SECONDS * k), min(float(SPAN_SECONDS * (k + 1)), seconds), False, score)
        )
    return rows


def _mark_speaker(rows: list[ScoreRow]) -> list[ScoreRow]:
    """Marks the row with the highest confidence in a span as the speaker's."""
    best = max((row.score.confidence for row in rows if row.score), default=np.nan)
    return [replace(row, speaks=row.score is not None and row.score.confidence == best) for row in rows]


def table(score: VideoScore) -> str:
    """The report as text for a terminal."""
    several = len(score.curves) > 1
    lines = [f"{display_path(score.path)}, {score.seconds:.2f} s"]
    lines += [f"{'person':>6} {'from':>8} {'to':>8}  {'offset':<34} {'distance':>8} {'confidence':>10}"]
    for row in score.rows:
        figures = f"{row.score.distance:8.3f} {row.score.confidence:10.3f}" if row.score else f"{'-':>8} {'-':>10}"
        remark = "  speaks" if several and row.speaks else ""
        lines.append(
            f"{row.person:6} {row.start:8.2f} {row.end:8.2f}  {describe_offset(row.score):<34} {figures}{remark}"
        )
    return "\n".join(lines)


def describe_offset(score: SyncScore | None) -> str:
    """The offset in words."""
    if score is None:
        return "too little speech"
    if not score.offset:
        return "in sync"
    frames = f"{abs(score.offset)} frame{'s' * (abs(score.offset) > 1)} ({abs(score.milliseconds)} ms)"
    return f"audio {frames} {'early' if score.offset > 0 else 'late'}"
