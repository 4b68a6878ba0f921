"""Aggregation of a judge's scores of real and modified videos: statistics, JSON and Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.metrics.statistics import Interval, interval, paired
from preprocessing.dataset.clip_header import CLIP_FPS
from syncnet.offset import REACH

AS_IT_IS, ANOTHER = "as it is", "another's sound"  # keys in the JSON, see `label`
LONG = 3 * CLIP_FPS  # frames above which the offset should be found reliably


def label(change: str) -> str:
    """The name of a change in tables and plots; the JSON keeps the keys of `JudgeFindings.changed`."""
    names = {AS_IT_IS: "unchanged", ANOTHER: "another speaker's audio"}
    return names.get(change, change.replace("sound ", "audio "))


@dataclass(frozen=True)
class JudgeScore:
    """A judge's scores of one video with one audio track.

    Attributes:
        offset, confidence: see `syncnet.offset.SyncScore`.
        near: mean distance at the offset of the unchanged video.
        curve: (31,) mean distances at the AV offsets 15 to -15.
    """

    offset: int
    confidence: float
    near: float
    curve: np.ndarray


@dataclass(frozen=True)
class JudgeFindings:
    """A judge's scores of one video and its modifications.

    Attributes:
        video: the file.
        frames: length of the run with face and audio, see `preprocessing.dataset.segmentation.frames_with_audio`.
        planted: scores by audio delay in frames.
        changed: scores by name of the modification; always contains `AS_IT_IS`.
    """

    video: Path
    frames: int
    planted: Mapping[int, JudgeScore]
    changed: Mapping[str, JudgeScore]

    @property
    def own(self) -> int:
        """The offset of the unchanged video."""
        return self.changed[AS_IT_IS].offset

    def found(self, truth: int, shifts: Iterable[int] | None = None) -> float | None:
        """Share of planted shifts recovered within one frame, taking `truth` as the unchanged video's offset.

        Shifts beyond the judge's search range are ignored; None if no others remain.
        """
        wanted = {shift: truth - shift for shift in (self.planted if shifts is None else shifts)}
        hits = [abs(self.planted[shift].offset - at) <= 1 for shift, at in wanted.items() if abs(at) <= REACH]
        return float(np.mean(hits)) if hits else None


Share = Callable[[JudgeFindings], float | None]


def over(found: Sequence[JudgeFindings], share: Share) -> Interval | None:
    """The mean over the videos that have a value, with its interval."""
    return interval([value for one in found if (value := share(one)) is not None])


def long_ones(found: Sequence[JudgeFindings]) -> list[JudgeFindings]:
    """The videos of at least three seconds."""
    return [one for one in found if one.frames >= LONG]


def groups(found: Sequence[JudgeFindings]) -> dict[str, list[JudgeFindings]]:
    """All videos and the long ones, by group name."""
    return {"all": list(found), "3 s or more": long_ones(found)}


def in_sync(one: JudgeFindings) -> float:
    """1 if the unchanged video's offset is -1, 0 or 1, else 0."""
    return float(abs(one.own) <= 1)


# Markdown ------------------------------------------------------------------------------------------------------------


def tables(found: Sequence[JudgeFindings], *, cosine: bool) -> str:
    """The three tables.

    Args:
        found: findings of at least one video.
        cosine: whether distances are 1 minus a cosine, which is then shown instead.
    """
    return "\n".join([*_unchanged(found), "", *_planted(found), "", *_changed(found, cosine), ""])


def _unchanged(found: Sequence[JudgeFindings]) -> list[str]:
    lines = ["Unchanged videos, shares in %:", "", "| videos | number | offset within 1 frame | confidence | offsets |"]
    lines.append("|---|---|---|---|---|")
    for name, group in groups(found).items():
        counts = Counter(one.own for one in group)
        offsets = " ".join(f"{offset}×{count}" for offset, count in sorted(counts.items()))
        confidence = over(group, lambda one: one.changed[AS_IT_IS].confidence)
        lines.append(f"| {name} | {len(group)} | {percent(over(group, in_sync))} | {plain(confidence)} | {offsets} |")
    return lines


def _planted(found: Sequence[JudgeFindings]) -> list[str]:
    lines = ["Planted audio shifts recovered within one frame, %:", ""]
    lines += [
        "| audio delay, frames | videos | relative to zero | relative to its own answer |",
        "|---|---|---|---|",
    ]
    group = long_ones(found)
    for shift in sorted(found[0].planted):
        lines.append(f"| {shift:+d}, 3 s or more | {len(group)} | {_both(group, [shift])} |")
    for name, group in groups(found).items():
        lines.append(f"| **all shifts, {name}** | {len(group)} | {_both(group, None)} |")
    return lines


def _both(group: Sequence[JudgeFindings], shifts: Sequence[int] | None) -> str:
    zero, own = over(group, lambda one: one.found(0, shifts)), over(group, lambda one: one.found(one.own, shifts))
    return f"{percent(zero)} | {percent(own)}"


def _changed(found: Sequence[JudgeFindings], cosine: bool) -> list[str]:
    near = "cosine" if cosine else "distance"
    lines = ["Degraded videos, shares in %; changes are paired by video:", ""]
    lines.append(
        f"| degradation | videos | {near} at its own offset | change | confidence | change "
        "| offset within 1 of zero | of its own |"
    )
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(name for one in found for name in one.changed):
        lines.append(f"| {label(name)} | {' | '.join(_changed_cells(found, name, cosine))} |")
    return lines


def _changed_cells(found: Sequence[JudgeFindings], name: str, cosine: bool) -> list[str]:
    group = [one for one in found if name in one.changed and not np.isnan(one.changed[name].near)]
    figures: list[str] = []
    for figure in (partial(_near, cosine=cosine), _confidence):
        mean = over(group, partial(figure, name=name))
        figures += [plain(mean and mean._replace(low=None))]
        figures += ["–" if name == AS_IT_IS else plain(_change(group, name, figure), "+.3f")]
    zero = over(group, lambda one: float(abs(one.changed[name].offset) <= 1))
    own = over(group, lambda one: float(abs(one.changed[name].offset - one.own) <= 1))
    return [str(len(group)), *figures, percent(zero), percent(own)]


def _change(group: Sequence[JudgeFindings], name: str, figure: Callable[..., float]) -> Interval | None:
    """Mean difference of a score from that of the same videos unchanged."""
    changed, unchanged = (
        dict[Hashable, float]((one.video, figure(one, name=key)) for one in group) for key in (name, AS_IT_IS)
    )
    return paired(changed, unchanged)


def _confidence(one: JudgeFindings, name: str) -> float:
    return one.changed[name].confidence


def _near(one: JudgeFindings, name: str, cosine: bool) -> float:
    return 1 - one.changed[name].near if cosine else one.changed[name].near


def percent(share: Interval | None) -> str:
    """A share in [0, 1] as a percentage with its interval; a dash for None."""
    if share is None:
        return "–"
    ends = "" if share.low is None or share.high is None else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    return f"{100 * share.mean:.1f}{ends}"


def plain(found: Interval | None, form: str = ".3f") -> str:
    """A mean with its interval; a dash for None."""
    if found is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.mean:{form}}{ends}"


# JSON ----------------------------------------------------------------------------------------------------------------


def summary(found: Sequence[JudgeFindings]) -> dict[str, object]:
    """Everything as plain JSON: shares with their intervals, and each video's scores."""
    shares = {
        name: {
            "videos": len(group),
            "within_1": _plain_interval(over(group, in_sync)),
            "planted_from_zero": _plain_interval(over(group, lambda one: one.found(0))),
            "planted_from_own": _plain_interval(over(group, lambda one: one.found(one.own))),
        }
        for name, group in {"all": found, "long": long_ones(found)}.items()
    }
    return {"shares": shares, "videos": [_video(one) for one in found]}


def _plain_interval(found: Interval | None) -> dict[str, float | int | None] | None:
    return None if found is None else found._asdict()


def _video(one: JudgeFindings) -> dict[str, object]:
    return {
        "video": one.video.name, "frames": one.frames, "offset": one.own,
        "planted": {str(shift): score.offset for shift, score in one.planted.items()},
        "changed": {name: _score(score) for name, score in one.changed.items()},
    }  # fmt: skip


def _score(score: JudgeScore) -> dict[str, object]:
    """Unavailable distances are null."""
    near, *curve = (None if np.isnan(value) else round(float(value), 5) for value in (score.near, *score.curve))
    confidence = round(score.confidence, 5)
    return {"offset": score.offset, "confidence": confidence, "distance": near, "curve": curve}
