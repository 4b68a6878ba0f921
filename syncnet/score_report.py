"""What is said about a video: a row for each person in the whole of it and in each span of five seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import display_path
from syncnet.offset import SyncScore, shift_curve, sync_score
from syncnet.video_scoring import ScoredTrack

SPAN = 5  # seconds
LEAST_SPAN = 25  # windows: with less than a second of speech, a span says nothing


@dataclass(frozen=True)
class ScoreRow:
    """One person in one span of a video.

    Attributes:
        person: from 1 on.
        start, end: seconds.
        whole: whether the span is the whole video, of which start and end are where the person is seen.
        score: None where there is too little speech to tell.
        speaks: whether nobody else in the span has a higher confidence.
    """

    person: int
    start: float
    end: float
    whole: bool
    score: SyncScore | None
    speaks: bool = False

    def values(self) -> dict[str, object]:
        """As JSON holds it."""
        score = self.score
        return {
            "person": self.person, "from": round(self.start, 3), "to": round(self.end, 3), "whole": self.whole,
            "offset": score and score.offset, "milliseconds": score and score.milliseconds,
            "distance": score and round(score.distance, 4), "confidence": score and round(score.confidence, 4),
            "windows": score.windows if score else 0, "speaks": self.speaks,
        }  # fmt: skip


@dataclass(frozen=True)
class VideoScore:
    """What a video's sync is like.

    Attributes:
        path: the video.
        seconds: its length.
        rows: of the whole video, one for each person, then of its spans, in order.
        curves: by person, the mean distance at each shift (31,), see `syncnet.offset.shift_curve`.
    """

    path: Path
    seconds: float
    rows: list[ScoreRow]
    curves: dict[int, np.ndarray] = field(repr=False)

    @property
    def speaker(self) -> ScoreRow:
        """The row, of the whole video, of the one who speaks."""
        return next(row for row in self.rows if row.whole and row.speaks)

    def values(self) -> dict[str, object]:
        """As JSON holds it."""
        rows = [row.values() for row in self.rows]
        return {"video": str(self.path), "seconds": self.seconds, "speaker": self.speaker.person, "rows": rows}


def report(
    path: Path, seconds: float, people: Sequence[ScoredTrack], counted: Callable[[np.ndarray], np.ndarray]
) -> VideoScore:  # fmt: skip
    """The rows of all people.

    Args:
        path, seconds: the video and its length.
        people: one or more.
        counted: from (W,) first frames to (W,) bool, which windows say something about sync.
    """
    whole, spans, curves = list[ScoreRow](), list[ScoreRow](), {}
    for number, person in enumerate(people, 1):
        chosen = counted(person.starts)
        score = sync_score(person.distances, chosen)
        whole.append(ScoreRow(number, person.first / CLIP_FPS, person.last / CLIP_FPS, True, score))
        curves[number] = shift_curve(person.distances[chosen])
        spans += _spans(number, person, chosen, seconds)
    starts = sorted({row.start for row in spans})
    groups = [whole] + [[row for row in spans if row.start == start] for start in starts]
    return VideoScore(path, seconds, [row for group in groups for row in _speaking(group)], curves)


def _spans(number: int, person: ScoredTrack, counted: np.ndarray, seconds: float) -> list[ScoreRow]:
    """One person's rows of five seconds; each window belongs to the span in which it begins."""
    rows, span = [], person.starts // (SPAN * CLIP_FPS)
    for k in np.unique(span).tolist():
        chosen = counted & (span == k)
        score = sync_score(person.distances, chosen) if chosen.sum() >= LEAST_SPAN else None
        rows.append(ScoreRow(number, float(SPAN * k), min(float(SPAN * (k + 1)), seconds), False, score))
    return rows


def _speaking(rows: list[ScoreRow]) -> list[ScoreRow]:
    """The rows of one span, in which the one with the highest confidence speaks."""
    best = max((row.score.confidence for row in rows if row.score), default=np.nan)
    return [replace(row, speaks=row.score is not None and row.score.confidence == best) for row in rows]


def table(score: VideoScore) -> str:
    """What is printed for a video."""
    several = len(score.curves) > 1
    lines = [f"{display_path(score.path)}, {score.seconds:.2f} s"]
    lines += [f"{'person':>6} {'from':>8} {'to':>8}  {'offset':<34} {'distance':>8} {'confidence':>10}"]
    for row in score.rows:
        figures = f"{row.score.distance:8.3f} {row.score.confidence:10.3f}" if row.score else f"{'-':>8} {'-':>10}"
        remark = "  speaks" if several and row.speaks else ""
        lines.append(f"{row.person:6} {row.start:8.2f} {row.end:8.2f}  {described(row.score):<34} {figures}{remark}")
    return "\n".join(lines)


def described(score: SyncScore | None) -> str:
    """An offset in words."""
    if score is None:
        return "too little speech to tell"
    if not score.offset:
        return "in sync"
    frames = f"{abs(score.offset)} frame{'s' * (abs(score.offset) > 1)} ({abs(score.milliseconds)} ms)"
    return f"sound {frames} {'early' if score.offset > 0 else 'late'}"
