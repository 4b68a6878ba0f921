"""What a judge's answers to real and changed videos amount to: figures, JSON and Markdown tables."""

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

AS_IT_IS = "as it is"
LONG = 3 * CLIP_FPS  # frames of a video whose offset is to be found for certain


@dataclass(frozen=True)
class JudgeReading:
    """A judge's answer to one picture with one sound.

    Attributes:
        offset, confidence: as of `syncnet.offset.SyncScore`.
        near: mean distance at the offset of the unchanged video.
        curve: (31,) mean distances, of the AV offsets 15 to -15.
    """

    offset: int
    confidence: float
    near: float
    curve: np.ndarray


@dataclass(frozen=True)
class JudgeFindings:
    """A judge's answers to one video.

    Attributes:
        video: the file. frames: of the run with face and sound, see `preprocessing.dataset.segmentation.frames_with_audio`.
        planted: by the frames by which its sound was made late.
        changed: by the name of what was done to picture or sound; `AS_IT_IS` is always there.
    """

    video: Path
    frames: int
    planted: Mapping[int, JudgeReading]
    changed: Mapping[str, JudgeReading]

    @property
    def own(self) -> int:
        """The offset of the unchanged video."""
        return self.changed[AS_IT_IS].offset

    def found(self, truth: int, shifts: Iterable[int] | None = None) -> float | None:
        """The share of planted shifts that are found within one frame, if the unchanged video's offset is `truth`.

        Those that lie beyond the offsets that a judge tries are not counted; None: there is no other.
        """
        wanted = {shift: truth - shift for shift in (self.planted if shifts is None else shifts)}
        hits = [abs(self.planted[shift].offset - at) <= 1 for shift, at in wanted.items() if abs(at) <= REACH]
        return float(np.mean(hits)) if hits else None


Share = Callable[[JudgeFindings], float | None]


def over(found: Sequence[JudgeFindings], share: Share) -> Interval | None:
    """The mean over the videos that have the figure, with its interval."""
    return interval([value for one in found if (value := share(one)) is not None])


def long_ones(found: Sequence[JudgeFindings]) -> list[JudgeFindings]:
    """The videos of three seconds or more."""
    return [one for one in found if one.frames >= LONG]


def groups(found: Sequence[JudgeFindings]) -> dict[str, list[JudgeFindings]]:
    """All videos, and the long ones, by the name of the group."""
    return {"all": list(found), "3 s or more": long_ones(found)}


def in_sync(one: JudgeFindings) -> float:
    """1 where the unchanged video's offset is -1, 0 or 1."""
    return float(abs(one.own) <= 1)


# Markdown ------------------------------------------------------------------------------------------------------------


def tables(found: Sequence[JudgeFindings], *, cosine: bool) -> str:
    """The three tables.

    Args:
        found: of one video or more.
        cosine: whether distances are 1 less a cosine, which is then shown.
    """
    return "\n".join([*_as_they_are(found), "", *_planted(found), "", *_changed(found, cosine), ""])


def _as_they_are(found: Sequence[JudgeFindings]) -> list[str]:
    lines = ["As they are, shares in %:", "", "| videos | number | offset within 1 frame | confidence | offsets |"]
    lines.append("|---|---|---|---|---|")
    for name, some in groups(found).items():
        counts = Counter(one.own for one in some)
        offsets = " ".join(f"{offset}×{count}" for offset, count in sorted(counts.items()))
        confidence = over(some, lambda one: one.changed[AS_IT_IS].confidence)
        lines.append(f"| {name} | {len(some)} | {percent(over(some, in_sync))} | {plain(confidence)} | {offsets} |")
    return lines


def _planted(found: Sequence[JudgeFindings]) -> list[str]:
    lines = ["Sound moved, found within one frame, %:", ""]
    lines += [
        "| sound late by, frames | videos | counted from zero | counted from its own answer |",
        "|---|---|---|---|",
    ]
    some = long_ones(found)
    for shift in sorted(found[0].planted):
        lines.append(f"| {shift:+d}, 3 s or more | {len(some)} | {_both(some, [shift])} |")
    for name, some in groups(found).items():
        lines.append(f"| **every shift, {name}** | {len(some)} | {_both(some, None)} |")
    return lines


def _both(some: Sequence[JudgeFindings], shifts: Sequence[int] | None) -> str:
    zero, own = over(some, lambda one: one.found(0, shifts)), over(some, lambda one: one.found(one.own, shifts))
    return f"{percent(zero)} | {percent(own)}"


def _changed(found: Sequence[JudgeFindings], cosine: bool) -> list[str]:
    near = "cosine" if cosine else "distance"
    lines = ["Degraded, shares in %; change of the same videos:", ""]
    lines.append(
        f"| picture or sound | videos | {near} at its own offset | change | confidence | change "
        "| offset within 1 of zero | of its own |"
    )
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(name for one in found for name in one.changed):
        lines.append(f"| {name} | {' | '.join(_rung(found, name, cosine))} |")
    return lines


def _rung(found: Sequence[JudgeFindings], name: str, cosine: bool) -> list[str]:
    some = [one for one in found if name in one.changed and not np.isnan(one.changed[name].near)]
    figures: list[str] = []
    for figure in (partial(_near, cosine=cosine), _confidence):
        mean = over(some, partial(figure, name=name))
        figures += [plain(mean and mean._replace(low=None))]
        figures += ["–" if name == AS_IT_IS else plain(_change(some, name, figure), "+.3f")]
    zero = over(some, lambda one: float(abs(one.changed[name].offset) <= 1))
    own = over(some, lambda one: float(abs(one.changed[name].offset - one.own) <= 1))
    return [str(len(some)), *figures, percent(zero), percent(own)]


def _change(some: Sequence[JudgeFindings], name: str, figure: Callable[..., float]) -> Interval | None:
    """By how much a figure is more than in the same videos as they are."""
    here, there = (
        dict[Hashable, float]((one.video, figure(one, name=rung)) for one in some) for rung in (name, AS_IT_IS)
    )
    return paired(here, there)


def _confidence(one: JudgeFindings, name: str) -> float:
    return one.changed[name].confidence


def _near(one: JudgeFindings, name: str, cosine: bool) -> float:
    return 1 - one.changed[name].near if cosine else one.changed[name].near


def percent(share: Interval | None) -> str:
    """A share from 0 to 1 with its interval; a dash where there is none."""
    if share is None:
        return "–"
    ends = "" if share.low is None or share.high is None else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    return f"{100 * share.mean:.1f}{ends}"


def plain(found: Interval | None, form: str = ".3f") -> str:
    """A mean with its interval; a dash where there is none."""
    if found is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.mean:{form}}{ends}"


# JSON ----------------------------------------------------------------------------------------------------------------


def summary(found: Sequence[JudgeFindings]) -> dict[str, object]:
    """All of it as plain JSON: shares with their intervals, and each video's readings."""
    shares = {
        name: {
            "videos": len(some),
            "within_1": _plain_interval(over(some, in_sync)),
            "planted_from_zero": _plain_interval(over(some, lambda one: one.found(0))),
            "planted_from_own": _plain_interval(over(some, lambda one: one.found(one.own))),
        }
        for name, some in {"all": found, "long": long_ones(found)}.items()
    }
    return {"shares": shares, "videos": [_video(one) for one in found]}


def _plain_interval(found: Interval | None) -> dict[str, float | int | None] | None:
    return None if found is None else found._asdict()


def _video(one: JudgeFindings) -> dict[str, object]:
    return {
        "video": one.video.name, "frames": one.frames, "offset": one.own,
        "planted": {str(shift): reading.offset for shift, reading in one.planted.items()},
        "changed": {name: _reading(reading) for name, reading in one.changed.items()},
    }  # fmt: skip


def _reading(reading: JudgeReading) -> dict[str, object]:
    """A distance that could not be had is null."""
    near, *curve = (None if np.isnan(value) else round(float(value), 5) for value in (reading.near, *reading.curve))
    confidence = round(reading.confidence, 5)
    return {"offset": reading.offset, "confidence": confidence, "distance": near, "curve": curve}
