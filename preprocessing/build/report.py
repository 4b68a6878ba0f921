"""The build report: figures for report.json and the terminal, and a contact sheet of clips."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from preprocessing.dataset.clips import Clip
from preprocessing.dataset.manifest import ClipRow, VideoRow
from preprocessing.errors import UsageError, display_path
from preprocessing.faces.crops import CropGeometry

FATES = ("made", "rejected", "broken", "failed")
MAX_REASONS = 20  # the most frequent reasons for videos without a clip that are reported

TILE = 112  # pixels: side of one frame on the sheet
FRAMES_PER_CLIP = 5
CLIPS_PER_ROW = 3  # on the contact sheet
CAPTION = 34  # pixels: two lines of text below the frames
MAX_CLIPS = 120  # per contact sheet, 1704 x 5840 pixels

# Left, top and side of the mouth square used by the sync expert, in a 96-pixel points crop.
MOUTH_SQUARE = (16, 28, 64)
GREEN, YELLOW, WHITE = (80, 220, 80), (60, 220, 250), (235, 235, 235)


def summary(rows: Sequence[ClipRow], videos: Sequence[VideoRow], stages: Mapping[str, float]) -> dict[str, Any]:
    """The figures of a build, ready for JSON.

    Args:
        rows: the manifest.
        videos: the outcome of each video.
        stages: processing seconds by stage, summed over all videos.

    Returns:
        videos: count by outcome, total duration and processing time in seconds, seconds of video per second of
        processing; clips: passed and rejected, durations in seconds; splits and licences: clips, minutes and people
        among the clips that pass; rejected: clips by filter, counting a clip once per failed filter; reasons: the most
        frequent reasons for videos without a clip, without names and details; stages: processing seconds.
    """
    passed = [row for row in rows if row.passes]
    length, work = sum(video.seconds for video in videos), sum(video.work_seconds for video in videos)
    fates = Counter(video.fate for video in videos)
    return {
        "videos": {"total": len(videos)} | {fate: fates[fate] for fate in FATES},
        "video_seconds": length,
        "work_seconds": work,
        "speed": length / work if work > 0 else None,
        "clips": {"passed": len(passed), "rejected": len(rows) - len(passed)} | _lengths(passed),
        "splits": _groups(passed, lambda row: row.split),
        "licences": _groups(passed, lambda row: row.licence),
        "rejected": _ranked(name for row in rows if not row.passes for name in _failed_filters(row)),
        "reasons": _ranked((_reason_category(video) for video in videos if video.fate != "made"), MAX_REASONS),
        "stages": dict(stages),
    }


def _lengths(rows: Sequence[ClipRow]) -> dict[str, float]:
    """Total minutes; shortest, median and longest clip in seconds."""
    seconds = sorted(row.seconds for row in rows) or [0.0]
    shortest, median, longest = seconds[0], float(np.median(seconds)), seconds[-1]
    return {"minutes": sum(seconds) / 60, "shortest": shortest, "median": median, "longest": longest}


def _groups(rows: Iterable[ClipRow], key: Callable[[ClipRow], str]) -> dict[str, dict[str, float]]:
    grouped = defaultdict(list)
    for row in rows:
        grouped[key(row)].append(row)
    return {
        name: {
            "clips": len(group),
            "minutes": sum(row.seconds for row in group) / 60,
            "people": len({row.speaker for row in group}),
        }
        for name, group in sorted(grouped.items())
    }


def _failed_filters(row: ClipRow) -> list[str]:
    """The filters that reject a clip: quality filters of the build, or the later sync filter."""
    return row.reason.split("+") if row.reason else [f"sync_filter: {row.sync_filter}"]


def _reason_category(video: VideoRow) -> str:
    """Why a video has no clip, without its name and details after a colon, so that equal reasons are grouped."""
    name = display_path(PurePosixPath(video.video).name).strip("'\"")
    reason = video.reason.partition(name)[2] if name in video.reason else video.reason
    return reason.strip("'\": ").partition(": ")[0] or video.fate


def _ranked(names: Iterable[str], most: int | None = None) -> dict[str, int]:
    """Counts of the names, most frequent first, ties by name."""
    counts = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    return dict(counts[:most])


def table(summary: Mapping[str, Any]) -> str:
    """Formats the summary for a terminal, without a trailing newline."""
    videos, clips, speed = summary["videos"], summary["clips"], summary["speed"]
    fates = ", ".join(f"{videos[fate]} {fate}" for fate in FATES)
    spans = f"{clips['shortest']:.1f} to {clips['longest']:.1f} s, median {clips['median']:.1f} s"
    work = f"{_format_duration(summary['work_seconds'])} for {_format_duration(summary['video_seconds'])} of video"
    lines = [
        f"videos    {videos['total']}: {fates}",
        f"clips     {clips['passed']} passed, {clips['rejected']} rejected",
        f"minutes   {clips['minutes']:.1f}" + (f" ({spans})" if clips["passed"] else ""),
        f"work      {work}" + (f": {speed:.2f} s of video per second" if speed else ""),
    ]
    groups = [[name or "(none)", *group.values()] for name, group in summary["splits"].items()]
    lines += _format_block("split", ("clips", "minutes", "people"), groups)
    lines += _format_block("clips rejected by", ("clips",), summary["rejected"].items())
    lines += _format_block("videos without a clip", ("videos",), summary["reasons"].items())
    lines += _format_block("stage", ("seconds",), [(name, float(value)) for name, value in summary["stages"].items()])
    return "\n".join(lines)


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _format_block(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A small table after a blank line, names left-aligned and numbers right-aligned; empty without rows."""
    cells = [[str(name), *(f"{x:.1f}" if isinstance(x, float) else str(x) for x in rest)] for name, *rest in rows]
    if not cells:
        return []
    wide = max(len(row[0]) for row in [[title], *cells])
    return ["", *(f"{row[0]:<{wide}}" + "".join(f"{x:>10}" for x in row[1:]) for row in [[title, *heads], *cells])]


def write_report(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes the summary as JSON, atomically."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(path, text.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes its JSON escape


def _replace(path: Path, data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        part = Path(folder, path.name)
        part.write_bytes(data)
        os.replace(part, path)


def contact_sheet(clips: Path, rows: Sequence[ClipRow], path: Path, count: int = 24, seed: int = 0) -> None:
    """Draws a PNG of random clips that pass: five frames of each, with mouth region and mouth corners marked.

    Covers as many speakers as possible, with at most `MAX_CLIPS` clips. Without clips, no sheet is written and an old
    one is removed.

    Args:
        clips: the clip folder.
        rows: the manifest.
        path: the PNG file.
        count: number of clips on the sheet.
        seed: seed of the random choice.

    Raises:
        UsageError: a chosen clip is missing or damaged, or `count` is negative.
    """
    if count < 0:
        raise UsageError(f"count must be 0 or more clips, not {count}")
    chosen = _choose([row for row in rows if row.passes and row.clip], min(count, MAX_CLIPS), seed)
    strips = [_strip(Clip.open(clips / row.clip), row.speaker) for row in chosen]
    if not strips:
        path.unlink(missing_ok=True)
        return
    blank = np.zeros_like(strips[0])
    strips += [blank] * (-len(strips) % min(CLIPS_PER_ROW, len(strips)))
    wide = min(CLIPS_PER_ROW, len(strips))
    sheet = np.vstack([np.hstack(strips[first : first + wide]) for first in range(0, len(strips), wide)])
    _replace(path, cv2.imencode(".png", sheet)[1].tobytes())


def _choose(rows: Sequence[ClipRow], count: int, seed: int) -> list[ClipRow]:
    """Chooses `count` random rows, a second row of a speaker only after one of every speaker."""
    rng = np.random.default_rng(seed)
    turns: Counter[str] = Counter()
    drawn: list[tuple[int, int, ClipRow]] = []
    for index in rng.permutation(len(rows)):
        speaker = rows[index].speaker
        drawn.append((turns[speaker], len(drawn), rows[index]))
        turns[speaker] += 1
    return [row for _, _, row in sorted(drawn, key=lambda item: item[:2])[:count]]


def _strip(clip: Clip, speaker: str) -> np.ndarray:
    """Five frames of a clip side by side above a caption: (TILE + CAPTION, 5 TILE + 8, 3)."""
    strip = np.zeros((TILE + CAPTION, FRAMES_PER_CLIP * TILE + 8, 3), np.uint8)
    for number, index in enumerate(np.linspace(0, clip.frames - 1, FRAMES_PER_CLIP).round().astype(int).tolist()):
        strip[:TILE, number * TILE : (number + 1) * TILE] = _annotated_frame(clip, index)
    _write_text(strip, speaker or "(no speaker)", TILE + 14)
    _write_text(strip, clip.path.stem, TILE + 28)
    return strip


def _annotated_frame(clip: Clip, index: int) -> np.ndarray:
    """Frame `index` with the mouth region and, if the face was found, the mouth corners: (TILE, TILE, 3)."""
    face = clip.faces(index, 1)[0]
    scale = TILE / face.shape[0]
    tile = cv2.resize(face, (TILE, TILE), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, top, right, bottom = mouth_region(clip.header.crop) + clip.margin
    corners = [(round(x * scale), round(y * scale)) for x, y in ((left, top), (right, bottom))]
    cv2.rectangle(tile, corners[0], (corners[1][0] - 1, corners[1][1] - 1), GREEN)
    track = clip.track
    if track.found[index]:
        points = mouth_corners(clip.header.crop, track.boxes[index], track.points[index], track.size) + clip.margin
        for x, y in (points + 0.5) * scale - 0.5:
            cv2.circle(tile, (round(x), round(y)), 2, YELLOW, -1, cv2.LINE_AA)
    return tile


def mouth_region(crop: CropGeometry) -> np.ndarray:
    """Left, top, right and bottom of the mouth region in the network input square.

    For a points crop, the square used by the sync expert; for a box crop, the lower half.
    """
    if crop.kind == "box":
        return np.array([0, crop.size / 2, crop.size, crop.size])
    left, top, side = MOUTH_SQUARE
    return np.array([left, top, left + side, top + side]) * crop.size / 96


def mouth_corners(
    crop: CropGeometry, box: np.ndarray, points: np.ndarray, size: tuple[int, int] | None
) -> np.ndarray:  # fmt: skip
    """The mouth corners (2, 2) in pixels of the network input square, for a face in a frame of `size`."""
    matrix = crop.matrix(box, points, size or (int(np.ceil(box[2])), int(np.ceil(box[3]))))
    return points[3:] @ matrix[:, :2].T + matrix[:, 2]


def _write_text(image: np.ndarray, text: str, bottom: int) -> None:
    """Draws one line of text, truncated to the image width; OpenCV fonts are ASCII only."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    width = image.shape[1] - 12
    while cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0] > width:
        plain = plain[:-4] + "..." if plain.endswith("...") else plain[:-3] + "..."
    cv2.putText(image, plain, (4, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.4, WHITE, 1, cv2.LINE_AA)
